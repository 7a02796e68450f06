package clientv3_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Most bytes of memory that a connection may cost on average, whatever it has said so far. Stock etcd takes 19,000
// for the same mix.
const perConnection = 32 << 10

// Thousands of connections that say nothing, stop in the middle of a header, or wait after an answer: their
// memory is bounded, and everybody else is served as before.
func TestIdleConnections(t *testing.T) {
	count := envInt(t, "IDLE_CONNECTIONS", 3000)
	c := startCluster(t, quorateBin(t), 1)
	endpoint := c.members[0].endpoint
	cl := client(t, endpoint)
	ctx := testContext(t, 120*time.Second)
	if _, err := cl.Put(ctx, "a", "b"); err != nil {
		t.Fatal(err)
	}
	before := resident(t, endpoint)
	says := []string{
		"",
		"P",
		"GET /version HTTP/1.1\r\nHost: a\r\nX: ",
		"GET /version HTTP/1.1\r\nHost: a\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{\"key\":",
	}
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	for i := range count {
		conn, err := net.DialTimeout("tcp", endpoint, 10*time.Second)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		conns = append(conns, conn)
		if _, err := io.WriteString(conn, says[i%len(says)]); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	start := time.Now()
	for range 20 {
		if _, err := cl.Put(try, "a", "c"); err != nil {
			t.Fatalf("a put beside %d idle connections: %v", count, err)
		}
	}
	after := resident(t, endpoint)
	each := (after - before) / count
	t.Logf("%d idle connections: %d KiB before, %d KiB after, %d bytes each; 20 puts beside them in %v", count, before>>10, after>>10, each, time.Since(start))
	if each > perConnection {
		t.Errorf("an idle connection takes %d bytes, more than %d", each, perConnection)
	}
}

// Headers that never end are cut off at a megabyte, and cost no more than that while they last.
func TestEndlessHeaders(t *testing.T) {
	c := startCluster(t, quorateBin(t), 1)
	endpoint := c.members[0].endpoint
	before := resident(t, endpoint)
	const count = 20
	answers := make(chan string, count)
	for range count {
		go func() {
			conn, err := net.Dial("tcp", endpoint)
			if err != nil {
				answers <- err.Error()
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			io.WriteString(conn, "GET /version HTTP/1.1\r\nHost: a\r\n")
			go func() {
				line := "X: " + strings.Repeat("a", 8000) + "\r\n"
				for {
					if _, err := io.WriteString(conn, line); err != nil {
						return
					}
				}
			}()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				line = err.Error()
			}
			answers <- line
		}()
	}
	refused := 0
	for range count {
		// Who still sends when the connection ends may see that before the answer.
		if line := <-answers; strings.Contains(line, " 431 ") || strings.Contains(line, "reset") {
			refused++
		} else {
			t.Errorf("endless headers were answered with %q", line)
		}
	}
	if grown := resident(t, endpoint) - before; grown > count*(2<<20)+(8<<20) {
		t.Errorf("%d endless headers took %d KiB", count, grown>>10)
	}
	if refused == 0 {
		t.Error("none was refused")
	}
}

// resident is the member's resident memory in bytes, by its own word.
func resident(t *testing.T, endpoint string) int {
	t.Helper()
	resp, err := http.Get("http://" + endpoint + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if rest, ok := strings.CutPrefix(line, "process_resident_memory_bytes "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatal("the page does not say how much memory is resident")
	return 0
}
