package clientv3_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/v3"
)

// edge is one call as HTTP/2 has it: what no library would send. Both servers get it on a connection of its own.
type edge struct {
	name string
	// head is in the place of the fields of the same name in a good head, or behind them; "-" as a value takes the field
	// away, a name that is there already twice is sent twice.
	head []hpack.HeaderField
	body []byte
	// open leaves the client's half open.
	open bool
	// bare: the head ends the client's half, and no body follows.
	bare bool
	// late: the call ends by its deadline, which etcd says with a status or a reset.
	late bool
	// or is what may come here instead of etcd's answer, with the reason beside it.
	or string
}

func field(pairs ...string) (fields []hpack.HeaderField) {
	for i := 0; i < len(pairs); i += 2 {
		fields = append(fields, hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return
}

var goodHead = field(":method", "POST", ":scheme", "http", ":path", "/etcdserverpb.KV/Range", ":authority", "a:1",
	"content-type", "application/grpc", "te", "trailers")

func (e edge) fields() (all []hpack.HeaderField) {
	given := map[string]bool{}
	for _, f := range e.head {
		given[f.Name] = true
	}
	for _, good := range goodHead {
		if !given[good.Name] {
			all = append(all, good)
			continue
		}
		for _, f := range e.head {
			if f.Name == good.Name && f.Value != "-" {
				all = append(all, f)
			}
		}
		delete(given, good.Name)
	}
	for _, f := range e.head {
		if given[f.Name] {
			all = append(all, f)
		}
	}
	return
}

// wire is one HTTP/2 connection.
type wire struct {
	net.Conn
	framer  *http2.Framer
	encoded bytes.Buffer
	encoder *hpack.Encoder
	next    uint32
}

func dialWire(t *testing.T, endpoint string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", endpoint)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, http2.ClientPreface)
	w := &wire{Conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	w.encoder = hpack.NewEncoder(&w.encoded)
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.framer.WriteSettings()
	return w
}

// call makes a call and says in one line what came of it.
func (w *wire) call(fields []hpack.HeaderField, body []byte, open, bare bool, patience time.Duration) string {
	id := w.next
	w.next += 2
	w.encoded.Reset()
	for _, f := range fields {
		w.encoder.WriteField(f)
	}
	block := w.encoded.Bytes()
	piece := block[:min(len(block), 16384)]
	block = block[len(piece):]
	w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: piece, EndHeaders: len(block) == 0, EndStream: bare})
	for len(block) > 0 {
		piece = block[:min(len(block), 16384)]
		block = block[len(piece):]
		w.framer.WriteContinuation(id, len(block) == 0, piece)
	}
	for first := true; !bare && (first || len(body) > 0); first = false {
		piece = body[:min(len(body), 16384)]
		body = body[len(piece):]
		w.framer.WriteData(id, !open && len(body) == 0, piece)
	}
	w.SetReadDeadline(time.Now().Add(patience))
	var said []string
	var data []byte
	finish := func(end string) string { return strings.Join(append(said, messages(data), end), "; ") }
	for {
		frame, err := w.framer.ReadFrame()
		if err != nil {
			var wait net.Error
			if errors.As(err, &wait) && wait.Timeout() {
				return finish("nothing more")
			}
			return finish("connection closed")
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				w.framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != id {
				continue
			}
			for _, h := range f.Fields {
				value := h.Value
				if h.Name == "grpc-message" { // percent-encoded, which may be more than need be
					value, _ = url.PathUnescape(h.Value)
				}
				// Whether an empty text is written out is not part of the answer.
				if h.Name != "date" && !(h.Name == "grpc-message" && value == "") {
					said = append(said, h.Name+": "+value)
				}
			}
			if f.StreamEnded() {
				return finish("end")
			}
		case *http2.DataFrame:
			if f.StreamID == id {
				data = append(data, f.Data()...)
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return finish(f.ErrCode.String())
			}
		case *http2.GoAwayFrame:
			return finish("GOAWAY " + f.ErrCode.String())
		}
	}
}

// messages says how many there are, whether they are compressed, and that they are whole.
func messages(data []byte) string {
	plain, packed := 0, 0
	for len(data) >= 5 {
		length := int(binary.BigEndian.Uint32(data[1:]))
		if len(data) < 5+length {
			return "a message that is cut off"
		}
		message := data[5 : 5+length]
		if data[0] == 1 {
			packed++
			r, err := gzip.NewReader(bytes.NewReader(message))
			if err == nil {
				_, err = io.Copy(io.Discard, r)
			}
			if err != nil {
				return "a message that is no gzip: " + err.Error()
			}
		} else {
			plain++
		}
		data = data[5+length:]
	}
	return fmt.Sprintf("%d plain, %d packed", plain, packed)
}

func prefixed(flag byte, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(message))), message...)
}

func zipped(message []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(message)
	w.Close()
	return out.Bytes()
}

func marshal(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return data
}

// TestSameEdges sends heads, messages and ends of calls as no gRPC library makes them, and looks whether the connection goes on.
func TestSameEdges(t *testing.T) {
	p := startPair(t, 1)
	p.same("seed", &pb.PutRequest{Key: []byte("a"), Value: bytes.Repeat([]byte("b"), 5000)})
	get := marshal(&pb.RangeRequest{Key: []byte("a")})
	put := marshal(&pb.PutRequest{Key: []byte("a"), Value: []byte("b")})
	create := marshal(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}})
	renew := marshal(&pb.LeaseKeepAliveRequest{ID: 7})
	good := prefixed(0, get)
	var cases []edge
	add := func(name string, e edge) {
		e.name = name
		if e.body == nil {
			e.body = good
		}
		cases = append(cases, e)
	}
	for _, authority := range []string{
		"#initially=[127.0.0.1:2379]", "a:1,b:2", "/run/x.sock", "%2Frun%2Fx.sock", "http://host", "a/b", "", " ", "é", "@", "user:pw@h:1", "[::1", "a:b:c",
	} {
		add("authority "+authority, edge{head: field(":authority", authority)})
	}
	add("no authority", edge{head: field(":authority", "-")})
	add("a host instead", edge{head: field(":authority", "-", "host", "x")})
	add("a host too", edge{head: field("host", "x")})
	add("two hosts", edge{head: field("host", "x", "host", "y")})
	add("te", edge{head: field("te", "gzip")})
	for _, name := range []string{"connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"} {
		add(name, edge{head: field(name, "close")})
	}
	add("upper case", edge{head: field("X-Upper", "a")})
	add("a space in a name", edge{head: field("x upper", "a")})
	add("a zero in a value", edge{head: field("x-zero", "a\x00b")})
	for _, ct := range []string{
		"application/grpc-web", "application/grpc+proto", "application/grpc+json", "application/grpc;x", "application/grpc+", "application/grpcx",
		"application/json", "Application/grpc", "", "-",
	} {
		add("content type "+ct, edge{head: field("content-type", ct)})
	}
	add("content type and method", edge{head: field("content-type", "x", ":method", "GET")})
	add("method", edge{head: field(":method", "GET")})
	for _, timeout := range []string{"", "S", "5", "123456789S", "-1S", "+1S", "1X", "1.5S", "99999999H", "0n", "1n", "0S", "5S"} {
		add("timeout "+timeout, edge{head: field("grpc-timeout", timeout)})
	}
	for _, timeout := range []string{"0n", "1n"} {
		add("put, timeout "+timeout, edge{head: field(":path", "/etcdserverpb.KV/Put", "grpc-timeout", timeout), body: prefixed(0, put)})
	}
	for _, v := range []string{"", "AA==", "AA", "A", "A===", "AAA*", "-_8=", "AAAAA", "AA=", "a*==", "====", "AA=A", "AAA=AAAA"} {
		add("binary "+v, edge{head: field("x-bin", v)})
	}
	for _, path := range []string{"/etcdserverpb.KV/Range?x=1", "/etcdserverpb.KV/Nope", "/no.Such/Range", "/", "//", "/Range", "/a?b/c", "/etcdserverpb.KV/Range/",
		"/etcdserverpb.KV/Range#x", "/etcdserverpb.KV/Range#", "#", "/etcdserverpb.KV/Range?x#y", "/etcdserverpb.KV/Range x", "/é/Range", "Range", "*", "?", "", "-",
	} {
		add("path "+path, edge{head: field(":path", path)})
	}
	// What frames carry says how long a message is; grpc-go reads no length in the head, so a wrong one is served.
	length := strconv.Itoa(len(good))
	for _, lengths := range [][]string{
		{length}, {length, length}, {"0"}, {"1"}, {"1000000"}, {"18446744073709551616"}, {"-1"}, {"+" + length}, {"x"}, {""}, {length + ", " + length}, {length, "1"}, {"1", length}, {"x", length},
	} {
		var head []hpack.HeaderField
		for _, value := range lengths {
			head = append(head, field("content-length", value)...)
		}
		name := "content length " + strings.Join(lengths, " and ")
		add(name, edge{head: head})
		add(name+", put", edge{head: append(field(":path", "/etcdserverpb.KV/Put"), head...), body: prefixed(0, put)})
		add(name+", open", edge{head: head, open: true})
		add(name+", watch", edge{head: append(field(":path", "/etcdserverpb.Watch/Watch", "grpc-timeout", "300m"), head...), body: prefixed(0, create), open: true, late: true})
	}
	for _, head := range [][]hpack.HeaderField{nil, field("content-length", "0"), field("content-length", length)} {
		// etcd never answers.
		eof := ":status: 200; content-type: application/grpc; grpc-status: 2; grpc-message: EOF; 0 plain, 0 packed; end"
		add(fmt.Sprint("no body ", head), edge{head: head, bare: true, or: eof})
	}
	for name, body := range map[string][]byte{
		"two messages": append(bytes.Clone(good), good...), "rubbish behind": append(bytes.Clone(good), "xx"...), "cut in the prefix": good[:3], "cut in the message": good[:7],
		"no message": {}, "flag 1": prefixed(1, get), "flag 2": prefixed(2, get), "flag 255": prefixed(255, get), "flag 2, cut": prefixed(2, get)[:6],
	} {
		add(name, edge{body: body})
	}
	for name, misfit := range map[string]string{"varint for bytes": "\x08\x01", "bytes for a varint": "\x1a\x01x", "fixed for a varint": "\x1d\x00\x00\x00\x00", "a group": "\x0b\x0c"} {
		add("wire type: "+name, edge{body: prefixed(0, append(bytes.Clone(get), misfit...))})
	}
	add("the half stays open", edge{open: true})
	add("the half stays open, put", edge{head: field(":path", "/etcdserverpb.KV/Put"), body: prefixed(0, put), open: true})
	add("watch, flag 2", edge{head: field(":path", "/etcdserverpb.Watch/Watch"), body: prefixed(2, create), open: true})
	add("watch, cut", edge{head: field(":path", "/etcdserverpb.Watch/Watch"), body: prefixed(0, create)[:7]})
	gz := func(path string, body []byte, open bool) edge {
		return edge{head: field(":path", path, "grpc-encoding", "gzip"), body: body, open: open}
	}
	const kv = "/etcdserverpb.KV/"
	packed := zipped(get)
	broken := zipped(bytes.Repeat(get, 50))
	wrong := bytes.Clone(broken)
	wrong[len(wrong)-6] ^= 1
	for name, body := range map[string][]byte{
		"packed": prefixed(1, packed), "plain under gzip": good, "rubbish": prefixed(1, []byte("rubbish rubbish rubbish")), "nothing": prefixed(1, nil), "a byte": prefixed(1, []byte{0x1f}),
		"cut": prefixed(1, broken[:len(broken)-3]), "half": prefixed(1, broken[:14]), "checksum": prefixed(1, wrong), "rubbish behind": prefixed(1, append(bytes.Clone(packed), "xxxxxxxxxxxx"...)),
		"two members": prefixed(1, append(zipped(get[:1]), zipped(get[1:])...)), "bomb": prefixed(1, zipped(make([]byte, 50<<20))), "refused": prefixed(1, zipped(nil)), "flag 2": prefixed(2, get),
	} {
		add("gzip: "+name, gz(kv+"Range", body, false))
	}
	add("gzip: put", gz(kv+"Put", prefixed(1, zipped(put)), false))
	add("gzip: range stream", gz(kv+"RangeStream", prefixed(1, packed), false))
	add("gzip: keep alive", gz("/etcdserverpb.Lease/LeaseKeepAlive", prefixed(1, zipped(renew)), false))
	add("gzip: health", gz("/grpc.health.v1.Health/Check", prefixed(0, nil), false))
	add("gzip: watch", gz("/etcdserverpb.Watch/Watch", prefixed(1, zipped(create)), true))
	// A stream's head leaves at once, which says how its messages will be packed.
	rubbish := gz("/etcdserverpb.Watch/Watch", prefixed(1, []byte("no gzip at all")), true)
	rubbish.or = ":status: 200; content-type: application/grpc; grpc-encoding: gzip; grpc-status: 13; " +
		"grpc-message: grpc: failed to decompress the message: gzip: invalid header; 0 plain, 0 packed; end"
	add("gzip: watch, rubbish", rubbish)
	for _, name := range []string{"br", "GZIP", "identity", ""} {
		add("encoding "+name, edge{head: field("grpc-encoding", name)})
		add("encoding "+name+", packed", edge{head: field("grpc-encoding", name), body: prefixed(1, packed)})
	}
	add("encoding br, watch", edge{head: field("grpc-encoding", "br", ":path", "/etcdserverpb.Watch/Watch"), open: true})
	add("gzip: accepted", edge{head: field("grpc-accept-encoding", "gzip")})
	for path, body := range map[string][]byte{
		"/etcdserverpb.Watch/Watch": prefixed(0, nil), "/etcdserverpb.Lease/LeaseKeepAlive": {}, "/grpc.health.v1.Health/Watch": prefixed(0, nil),
		"/v3electionpb.Election/Observe": prefixed(0, []byte("\x0a\x01e")), kv + "Range": good[:6], kv + "Put": {},
	} {
		add("late "+path, edge{head: field(":path", path, "grpc-timeout", "300m"), body: body, open: true, late: true})
	}
	for _, method := range []string{"Authenticate", "AuthStatus", "UserList", "RoleList"} {
		add("auth "+method, edge{head: field(":path", "/etcdserverpb.Auth/"+method), body: prefixed(0, nil)})
	}
	for bytes, or := range map[int]string{
		100_000: "", 900_000: "",
		// etcd takes 16 MB, and says nothing of it in its settings.
		2_000_000: ":status: 431; 0 plain, 0 packed; end", 3_900_000: ":status: 431; 0 plain, 0 packed; end",
	} {
		var head []hpack.HeaderField
		for range bytes / 10_000 {
			head = append(head, hpack.HeaderField{Name: "x-metadata", Value: strings.Repeat("v", 9_900), Sensitive: true})
		}
		add(fmt.Sprintf("metadata of %d bytes", bytes), edge{head: head, or: or})
	}
	same := func(e edge) {
		var said [2]string
		var both sync.WaitGroup
		for i, s := range []*side{&p.etcd, &p.ours} {
			both.Go(func() {
				w := dialWire(t, s.members[0].endpoint)
				defer w.Close()
				patience := 10 * time.Second
				if strings.HasPrefix(e.name, "gzip: watch") || e.bare {
					patience = time.Second // it stays open
				}
				said[i] = w.call(e.fields(), e.body, e.open, e.bare, patience)
				if again := w.call(goodHead, good, false, false, 10*time.Second); !strings.Contains(again, "1 plain") {
					said[i] += "; and then " + again
				}
			})
		}
		both.Wait()
		p.requests++
		etcd, ours := said[0], said[1]
		if e.late {
			isWatch := slices.Contains(e.head, field(":path", "/etcdserverpb.Watch/Watch")[0])
			if (isOver(etcd) || isWatch && strings.Contains(etcd, gaveUp)) && isOver(ours) {
				return
			}
		} else if etcd == ours || e.or != "" && ours == e.or {
			return
		}
		t.Errorf("%s:\netcd:    %s\nquorate: %s", e.name, etcd, ours)
	}
	for _, e := range cases {
		same(e)
	}
	t.Logf("%d cases", len(cases))
}

// gaveUp is what etcd's watch says instead, on a busy machine now and then: its half that sends notices the end first.
const gaveUp = "grpc-status: 1; grpc-message: context canceled"

// isOver says whether a call ended by its deadline.
func isOver(said string) bool {
	return strings.Contains(said, "grpc-status: 4; grpc-message: context deadline exceeded") || strings.HasSuffix(said, "; CANCEL")
}

// TestUserNameWithoutAuth: a client that was given a user's name works where authentication is off, as with etcd.
func TestUserNameWithoutAuth(t *testing.T) {
	p := startPair(t, 1)
	for _, s := range []*side{&p.etcd, &p.ours} {
		c := quietClient(t, clientv3.Config{Endpoints: s.endpoints(), Username: "root", Password: "secret"})
		if _, err := c.Put(testContext(t, 10*time.Second), "k", "v"); err != nil {
			t.Errorf("%s: put: %v", s.name, err)
		}
		status, err := c.AuthStatus(testContext(t, 10*time.Second))
		if err != nil || status.Enabled || status.AuthRevision != 1 {
			t.Errorf("%s: auth status: %v %v", s.name, status, err)
		}
	}
}

// TestSameHeads: heads over HTTP/1 that Go's server does not hand to etcd, and numbers in JSON, byte by byte.
func TestSameHeads(t *testing.T) {
	p := startPair(t, 1, "--host-whitelist=127.0.0.1,a")
	body := `{"key":"YQ=="}`
	post := func(head string) string {
		return fmt.Sprintf("POST /v3/kv/range HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", head, len(body), body)
	}
	chunks := func(head string) string {
		return "POST /v3/kv/range HTTP/1.1\r\n" + head + "\r\n5\r\n{\"key\r\n9\r\n\":\"YQ==\"}\r\n0\r\n\r\n"
	}
	get := func(version, head string) string { return "GET /version HTTP/" + version + "\r\n" + head + "\r\n" }
	cases := map[string]string{
		"two hosts":              get("1.1", "Host: a\r\nHost: a\r\n"),
		"two hosts, one allowed": get("1.1", "Host: a\r\nHost: evil\r\n"),
		"two hosts, 1.0":         get("1.0", "Host: a\r\nHost: a\r\n"),
		"two hosts, post":        post("Host: a\r\nHost: evil\r\n"),
		"two hosts, absolute":    "GET http://a/version HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"no host, bad coding":    chunks("Transfer-Encoding: gzip, chunked\r\n"),
		"coding in capitals":     chunks("Host: a\r\nTransfer-Encoding: Chunked\r\n"),
		"coding twice":           chunks("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
		"coding twice in a row":  chunks("Host: a\r\nTransfer-Encoding: chunked, chunked\r\n"),
		"two codings":            chunks("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"),
		"expect":                 post("Host: a\r\nExpect: foo\r\n"),
		"expect, get":            get("1.1", "Host: a\r\nExpect: foo\r\n"),
		"expect, 1.0":            get("1.0", "Host: a\r\nExpect: foo\r\n"),
		"expect nothing":         post("Host: a\r\nExpect:\r\n"),
		"no base64":              post("Host: a\r\nGrpc-Metadata-X-Bin: a*\r\n"),
		"base64":                 post("Host: a\r\nGrpc-Metadata-X-Bin: AA==\r\n"),
		"timeout 0":              post("Host: a\r\nGrpc-Timeout: 0n\r\n"),
		"timeout 1n":             post("Host: a\r\nGrpc-Timeout: 1n\r\n"),
		"metadata, two hosts":    post("Host: a\r\nGrpc-Metadata-Host: x\r\nGrpc-Metadata-Host: y\r\n"),
		"metadata, encoding":     post("Host: a\r\nGrpc-Metadata-Grpc-Encoding: br\r\n"),
	}
	for _, target := range []string{"/version#x", "/version#", "/version?a#b", "/v3/kv/range#x", "/version%23x", "/v3/kv/range%23x"} {
		cases["target "+target] = strings.Replace(get("1.1", "Host: a\r\n"), "/version", target, 1)
		cases["target, post "+target] = strings.Replace(post("Host: a\r\n"), "/v3/kv/range", target, 1)
	}
	// What may come here instead of etcd's answer. No client sends a "#" there (RFC 9112, 3.2); who does is answered as if it
	// ended the path (docs/operations.md).
	or := map[string]string{
		"target /version#x": "200  open", "target /version#": "200  open", "target, post /v3/kv/range#x": "200  open",
		"target, post /version#x": "405 Method Not Allowed\n open", "target, post /version#": "405 Method Not Allowed\n open",
		"target /v3/kv/range#x": `501 {"code":12,"message":"Method Not Allowed"} open`,
	}
	for _, host := range []string{"a b", "a/b", "a@b", "a?b", "a#b", "a{", "é", "a:1", "[::1]:5"} {
		cases["host "+host] = get("1.1", "Host: "+host+"\r\n")
	}
	for name, text := range cases {
		var said [2]string
		var both sync.WaitGroup
		for i, s := range []*side{&p.etcd, &p.ours} {
			both.Go(func() { said[i] = rawHead(t, s.members[0].endpoint, text) })
		}
		both.Wait()
		if said[0] != said[1] && (or[name] == "" || said[1] != or[name]) {
			t.Errorf("%s:\netcd:    %q\nquorate: %q", name, said[0], said[1])
		}
	}
	for _, number := range []string{
		`"+1"`, `"1e0"`, `"1.0"`, `"10e-1"`, `"1.5"`, `" 1"`, `"01"`, `"-0"`, `1e0`, `1.0`, `"1E1"`, `"1e+1"`, `""`, `"x"`, `"0x1"`, `"1_0"`, `"9223372036854775807"`,
		`"9223372036854775808"`, `"9.223372036854775807e18"`, `"-1"`, `"--1"`, `"1e400"`, `"1e-400"`, `"0e5"`, `"100000e-5"`, `"\u0031"`, `"1\t"`, `"1."`, `".5"`, `"1e"`, `"NaN"`, `null`, `true`,
	} {
		p.sameReply(ask{name: "limit " + number, path: "/v3/kv/range", body: `{"key":"YQ==","limit":` + number + `}`, ourText: true, host: "a"})
		p.sameReply(ask{name: "deep limit " + number, path: "/v3/kv/txn", body: `{"success":[{"requestRange":{"limit":` + number + `,"key":"YQ=="}}]}`, ourText: true, host: "a"})
	}
	for _, path := range []string{"authenticate", "status", "user/list", "role/list"} {
		p.sameReply(ask{name: path, path: "/v3/auth/" + path, body: "{}", host: "a"})
	}
}

// rawHead sends bytes, and returns the answer's status line and the length of its body's first line, and whether the
// connection was closed behind it.
func rawHead(t *testing.T, endpoint, text string) string {
	conn, err := net.Dial("tcp", endpoint)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer conn.Close()
	go io.WriteString(conn, text)
	conn.SetReadDeadline(time.Now().Add(700 * time.Millisecond))
	answer, err := io.ReadAll(conn)
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	status, _, _ := strings.Cut(head, "\r\n")
	fields := strings.Fields(status)
	end := "closed"
	if err != nil {
		end = "open"
	}
	if len(fields) < 2 {
		return end
	}
	if fields[1] == "200" {
		body = "" // identities
	}
	// The reason behind the code is text for nobody (RFC 9112, 4).
	return fields[1] + " " + strings.ReplaceAll(body, ", \"", ",\"") + " " + end
}
