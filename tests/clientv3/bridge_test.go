package clientv3_test

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// bridge is a TCP port in front of another one, whose traffic can be stopped without a word to either end
// (as by a cable that is pulled), for all connections or for those of one peer.
type bridge struct {
	listener net.Listener
	target   string

	mu      sync.Mutex
	changed *sync.Cond
	silent  bool            // nothing passes
	without map[uint64]bool // nothing of these members passes
	closed  bool
	ended   int // connections that the side that opened them has closed
}

// startBridge listens on a free port until the test ends.
func startBridge(t testing.TB, target string) *bridge {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{listener: l, target: target, without: map[uint64]bool{}}
	b.changed = sync.NewCond(&b.mu)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go b.serve(conn)
		}
	}()
	t.Cleanup(func() {
		b.set(func() { b.closed = true })
		l.Close()
	})
	return b
}

func (b *bridge) endpoint() string { return b.listener.Addr().String() }

func (b *bridge) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
	b.changed.Broadcast()
}

func (b *bridge) silence()           { b.set(func() { b.silent = true }) }
func (b *bridge) restore()           { b.set(func() { b.silent = false; clear(b.without) }) }
func (b *bridge) cut(member uint64)  { b.set(func() { b.without[member] = true }) }
func (b *bridge) endedByOpener() int { b.mu.Lock(); defer b.mu.Unlock(); return b.ended }

// connection is one that passes over the bridge.
type connection struct {
	from  uint64 // the member that opened it, once its first request has said so
	ended bool   // one of its ends has closed it
}

// wait holds a piece of traffic back as long as the bridge says so; false is the end.
func (b *bridge) wait(c *connection) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.silent || b.without[c.from] {
		if b.closed || c.ended {
			return false
		}
		b.changed.Wait()
	}
	return !b.closed
}

func (b *bridge) serve(in net.Conn) {
	defer in.Close()
	out, err := net.DialTimeout("tcp", b.target, 5*time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	c := &connection{}
	var both sync.WaitGroup
	both.Go(func() { b.copy(c, out, in, func() { b.ended++ }) })
	both.Go(func() { b.copy(c, in, out, func() {}) })
	both.Wait()
}

// peerHeader is how members of both kinds introduce themselves to each other in every request, each with
// capitals of its own.
const peerHeader = "x-server-from: "

// held is how many pieces a silent connection takes in before its sender is no longer read from.
const held = 64

// copy passes on what one end sends, and closes the other when it ends. The end of a connection is noticed
// while its traffic is held back.
func (b *bridge) copy(c *connection, to, from net.Conn, atEnd func()) {
	pieces := make(chan []byte, held)
	go func() {
		defer close(pieces)
		for {
			piece := make([]byte, 16<<10)
			n, err := from.Read(piece)
			if n > 0 {
				pieces <- piece[:n]
			}
			if err != nil {
				b.set(func() { c.ended = true; atEnd() })
				return
			}
		}
	}()
	for piece := range pieces {
		b.introduce(piece, c)
		if !b.wait(c) {
			break
		}
		if _, err := to.Write(piece); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range pieces { // lets the reader end
	}
}

func (b *bridge) introduce(data []byte, c *connection) {
	_, rest, ok := bytes.Cut(bytes.ToLower(data), []byte(peerHeader))
	if !ok {
		return
	}
	if id, _, ok := bytes.Cut(rest, []byte("\r\n")); ok {
		if id, err := strconv.ParseUint(string(id), 16, 64); err == nil {
			b.mu.Lock()
			c.from = id
			b.mu.Unlock()
		}
	}
}
