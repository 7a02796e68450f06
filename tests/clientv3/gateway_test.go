package clientv3_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// ask is one HTTP request that both servers get.
type ask struct {
	name    string
	method  string // default POST, or GET where there is no body
	path    string
	body    string
	headers map[string]string
	host    string
	// ourText: the body's message is a library's own, which Go's protojson changes from build to build on
	// purpose; the code and everything else is compared.
	ourText bool
	// first is how many lines of a stream are compared, which is then broken off.
	first int
}

// reply is what is compared of an answer.
type reply struct {
	status  string
	headers []string
	body    string
}

func (r reply) String() string {
	return r.status + "\n" + strings.Join(r.headers, "\n") + "\n\n" + shorten(r.body)
}

// Headers that carry the time, or how a body is framed.
var framing = map[string]bool{"Date": true, "Content-Length": true, "Transfer-Encoding": true}

// Identities and what depends on the time, in JSON.
var identities = []*regexp.Regexp{
	regexp.MustCompile(`"(cluster_id|member_id|leader|memberID)":"\d+"`),
	regexp.MustCompile(`"(raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse)":"\d+"`),
}

func (s *side) ask(a ask) (reply, error) {
	method := a.method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequest(method, "http://"+s.members[0].endpoint+a.path, strings.NewReader(a.body))
	if err != nil {
		return reply{}, err
	}
	for k, v := range a.headers {
		req.Header.Set(k, v)
	}
	req.Host = a.host
	client := http.Client{
		Timeout:       20 * time.Second,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	var body []byte
	if a.first > 0 {
		lines := bufio.NewReader(resp.Body)
		for range a.first {
			line, err := lines.ReadBytes('\n')
			body = append(body, line...)
			if err != nil {
				return reply{}, fmt.Errorf("the stream ended after %q: %w", body, err)
			}
		}
	} else if body, err = io.ReadAll(resp.Body); err != nil {
		return reply{}, err
	}
	r := reply{status: resp.Status, body: a.canonical(body)}
	for k, vs := range resp.Header {
		if !framing[k] {
			r.headers = append(r.headers, fmt.Sprintf("%s: %q", k, vs))
		}
	}
	slices.Sort(r.headers)
	return r, nil
}

// canonical removes the spaces that protojson strews in, and what must differ.
func (a ask) canonical(body []byte) string {
	// Go's protojson says its name with either kind of space, by the build.
	text := strings.ReplaceAll(string(body), "\u00a0", " ")
	body = []byte(text)
	var compact bytes.Buffer
	for line := range strings.Lines(text) {
		if json.Compact(&compact, []byte(line)) != nil {
			compact.Reset()
			compact.WriteString(text)
			break
		}
		if strings.HasSuffix(line, "\n") {
			compact.WriteByte('\n')
		}
	}
	text = compact.String()
	for _, id := range identities {
		text = id.ReplaceAllString(text, `"$1":"…"`)
	}
	if a.ourText {
		text = regexp.MustCompile(`"message":"proto:.*"`).ReplaceAllString(text, `"message":"proto: …"`)
	}
	return text
}

func (p *pair) sameReply(a ask) {
	p.t.Helper()
	p.requests++
	etcd, errE := p.etcd.ask(a)
	ours, errO := p.ours.ask(a)
	if errE != nil || errO != nil {
		p.t.Errorf("%s: etcd: %v, quorate: %v", a.name, errE, errO)
		return
	}
	if etcd.String() != ours.String() || etcd.body != ours.body {
		p.t.Errorf("%s: %s %s %s\netcd:    %v\nquorate: %v", a.name, a.method, a.path, shorten(a.body), etcd, ours)
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func (p *pair) post(name, path, body string) {
	p.t.Helper()
	p.sameReply(ask{name: name, path: path, body: body})
}

// JSON in and out of the services that are there, against etcd.
func TestGatewaySameAnswers(t *testing.T) {
	p := startPair(t, 1)
	key, end := b64("foo"), b64("fop")
	kv := []ask{
		{name: "put", path: "/v3/kv/put", body: `{"key":"` + key + `","value":"` + b64("bar\x00\xff") + `"}`},
		{name: "put: prev_kv", path: "/v3/kv/put", body: `{"key":"` + key + `","value":"YQ==","prev_kv":true}`},
		{name: "put: camel case", path: "/v3/kv/put", body: `{"key":"` + key + `","prevKv":true,"ignoreValue":true}`},
		{name: "put: ignore_value of no key", path: "/v3/kv/put", body: `{"key":"bm9uZQ==","ignore_value":true}`},
		{name: "put: lease as a number", path: "/v3/kv/put", body: `{"key":"` + key + `","lease":12345}`},
		{name: "range", path: "/v3/kv/range", body: `{"key":"` + key + `"}`},
		{name: "range: of a range", path: "/v3/kv/range", body: `{"key":"` + key + `","range_end":"` + end + `","limit":"1"}`},
		{name: "range: all", path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA=="}`},
		{name: "range: nothing", path: "/v3/kv/range", body: `{"key":"bm9uZQ=="}`},
		{name: "range: unpadded", path: "/v3/kv/range", body: `{"key":"AA","range_end":"AA"}`},
		{name: "range: URL-safe", path: "/v3/kv/range", body: `{"key":"-_8="}`},
		{name: "range: enum by name", path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA==","sort_order":"DESCEND","sort_target":"MOD"}`},
		{name: "range: enum by number", path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA==","sort_order":2,"sort_target":3}`},
		{name: "range: enum without a name", path: "/v3/kv/range", body: `{"key":"AA==","sort_order":9}`},
		{name: "range: enum of no name", path: "/v3/kv/range", body: `{"key":"` + key + `","sort_order":"NOPE"}`},
		{name: "range: count", path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA==","count_only":true}`},
		{name: "range: keys", path: "/v3/kv/range", body: `{"key":"AA==","range_end":"AA==","keys_only":true}`},
		{name: "range: number as text", path: "/v3/kv/range", body: `{"key":"` + key + `","revision":"2"}`},
		{name: "range: number with a point", path: "/v3/kv/range", body: `{"key":"` + key + `","revision":2.0}`},
		{name: "range: number with an exponent", path: "/v3/kv/range", body: `{"key":"` + key + `","revision":2e0}`},
		{name: "range: future", path: "/v3/kv/range", body: `{"key":"` + key + `","revision":1000}`},
		{name: "range: null", path: "/v3/kv/range", body: `{"key":"` + key + `","limit":null,"range_end":null}`},
		{name: "range: unknown fields", path: "/v3/kv/range", body: `{"key":"` + key + `","foo":{"a":[1,{}]},"bar":null}`},
		{name: "range: spaces", path: "/v3/kv/range", body: " \n{\t\"key\" : \"" + key + "\" }\r\n"},
		{name: "range: escapes", path: "/v3/kv/range", body: `{"\u006bey":"\u005a\u006d\u0039v"}`},
		{name: "range: more than one value", path: "/v3/kv/range", body: `{"key":"` + key + `"} trailing`},
		{name: "txn", path: "/v3/kv/txn", body: `{"compare":[{"key":"` + key + `","target":"CREATE","result":"GREATER","create_revision":"0"}],
			"success":[{"request_put":{"key":"` + key + `","value":"YWJj","prev_kv":true}},{"request_range":{"key":"` + key + `"}},{"requestDeleteRange":{"key":"bm9uZQ=="}}]}`},
		{name: "txn: failure", path: "/v3/kv/txn", body: `{"compare":[{"key":"` + key + `","target":"VALUE","value":"eA=="}],"failure":[{"request_txn":{"success":[{"request_range":{"key":"` + key + `"}}]}}]}`},
		{name: "txn: empty", path: "/v3/kv/txn", body: `{}`},
		{name: "txn: no key", path: "/v3/kv/txn", body: `{"success":[{"request_put":{}}]}`},
		{name: "txn: no operation", path: "/v3/kv/txn", body: `{"success":[{}]}`},
		{name: "delete: prev_kv", path: "/v3/kv/deleterange", body: `{"key":"` + key + `","prev_kv":true}`},
		{name: "delete: nothing", path: "/v3/kv/deleterange", body: `{"key":"` + key + `"}`},
		{name: "watch", path: "/v3/watch", body: `{"create_request":{"key":"` + key + `","start_revision":"2","prev_kv":true}}`, first: 2},
		{name: "watch: two on a stream", path: "/v3/watch", body: `{"create_request":{"key":"` + key + `","start_revision":100000,"filters":["NODELETE"]}}
			{"create_request":{"key":"` + key + `","watch_id":"7"}}`, first: 2},
		{name: "watch: compacted later", path: "/v3/watch", body: `{"createRequest":{"key":"AA==","range_end":"AA==","start_revision":"100000"}}`, first: 1},
		{name: "compact", path: "/v3/kv/compaction", body: `{"revision":"3","physical":true}`},
		{name: "compact: again", path: "/v3/kv/compaction", body: `{"revision":"3"}`},
		{name: "range: compacted", path: "/v3/kv/range", body: `{"key":"` + key + `","revision":2}`},
		{name: "watch: compacted", path: "/v3/watch", body: `{"create_request":{"key":"` + key + `","start_revision":"2"}}`, first: 2},
		{name: "hash", path: "/v3/maintenance/hashkv", body: `{}`},
		{name: "alarms", path: "/v3/maintenance/alarm", body: `{"action":"GET"}`},
		{name: "alarm on", path: "/v3/maintenance/alarm", body: `{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}`},
		{name: "alarms: one", path: "/v3/maintenance/alarm", body: `{}`},
		{name: "put: no space", path: "/v3/kv/put", body: `{"key":"` + key + `"}`},
		{name: "alarm off", path: "/v3/maintenance/alarm", body: `{"action":2,"memberID":5,"alarm":1}`},
		{name: "move leader: nobody", path: "/v3/maintenance/transfer-leadership", body: `{"targetID":"7"}`},
		{name: "beta", path: "/v3beta/kv/range", body: `{"key":"` + key + `"}`},
	}
	for _, a := range kv {
		p.sameReply(a)
	}
}

// What is no request: JSON that is none, the wrong type, method, path, header.
func TestGatewaySameRefusals(t *testing.T) {
	p := startPair(t, 1)
	p.post("seed", "/v3/kv/put", `{"key":"Zm9v"}`)
	for _, body := range []string{
		"", " ", "hello", "{", "}", `{"key"`, `{"key":`, `{"key":"Zm9v"`, `{"key":"Zm9v",`, `{"key":"Zm9v",}`, `{key:1}`, `{"key":'a'}`,
		"nul", "tru", "-", "1.", "1e", "[1,]", `["\x"]`, "{\"key\":\"\n\"}", `{"key":"\u12g4"}`, "\xef\xbb\xbf{}", "\x00", "'", "\\",
		`{"a":1]`, `[1}`, `{"a" "b"}`, `[1 2]`, "é", "key=Zm9v&x=y",
		"[]", "null", "5", `"x"`, "true", "1.5e3",
		`{"key":"Zm9v"}]`, `{"key":"Zm9v"}{"key":`,
	} {
		p.post("body "+body, "/v3/kv/range", body)
	}
	for _, body := range []string{
		`{"key":5}`, `{"key":"!!"}`, `{"key":["Zm9v"]}`, `{"key":{}}`, `{"key":true}`,
		`{"limit":"x"}`, `{"limit":1.5}`, `{"limit":"9223372036854775808"}`, `{"limit":9223372036854775808}`, `{"limit":[]}`, `{"limit":""}`, `{"limit":" 1"}`,
		`{"serializable":"true"}`, `{"serializable":1}`,
		`{"key":"Zm9v","key":"Zm9v"}`, `{"range_end":"Zm9v","rangeEnd":"Zm9v"}`, `{"key":"Zm9v","limit":1,"limit":1}`,
		`{"sort_order":1.5}`, `{"sort_order":[]}`, `{"sort_order":3000000000}`,
	} {
		p.sameReply(ask{name: "value " + body, path: "/v3/kv/range", body: body, ourText: true})
	}
	for _, body := range []string{
		`{"success":[{"request_put":{"key":"Zm9v"},"request_range":{"key":"Zm9v"}}]}`, `{"success":{}}`, `{"success":[5]}`, `{"success":[null]}`, `{"compare":[{"result":[]}]}`,
	} {
		p.sameReply(ask{name: "value " + body, path: "/v3/kv/txn", body: body, ourText: true})
	}
	foo := `{"key":"Zm9v"}`
	for _, a := range []ask{
		{name: "GET", method: "GET", path: "/v3/kv/range"},
		{name: "PUT", method: "PUT", path: "/v3/kv/range", body: foo},
		{name: "DELETE", method: "DELETE", path: "/v3/kv/range"},
		{name: "HEAD", method: "HEAD", path: "/v3/kv/range"},
		{name: "OPTIONS", method: "OPTIONS", path: "/v3/kv/range"},
		{name: "no such route", path: "/v3/kv/nope", body: foo},
		{name: "GET of no route", method: "GET", path: "/v3/kv/nope"},
		{name: "slash behind", path: "/v3/kv/range/", body: foo},
		{name: "the folder", path: "/v3/", body: foo},
		{name: "the folder without a slash", path: "/v3", body: foo},
		{name: "GET of the folder without a slash", method: "GET", path: "/v3?a=b&c"},
		{name: "range stream has no route", path: "/v3/kv/rangestream", body: foo},
		{name: "health has no route", path: "/v3/health", body: foo},
		{name: "escaped path", path: "/v3/kv/%72ange", body: foo},
		{name: "query", path: "/v3/kv/range?limit=1", body: foo},
		{name: "unclean path", path: "/v3//kv/../kv/range", body: foo},
		{name: "form", path: "/v3/kv/range", body: foo, headers: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
		{name: "text", path: "/v3/kv/range", body: foo, headers: map[string]string{"Content-Type": "text/plain", "Accept": "text/html"}},
		{name: "timeout", path: "/v3/kv/range", body: foo, headers: map[string]string{"Grpc-Timeout": "5S"}},
		{name: "timeout that is none", path: "/v3/kv/range", body: foo, headers: map[string]string{"Grpc-Timeout": "x"}},
		{name: "timeout without a unit", path: "/v3/kv/range", body: foo, headers: map[string]string{"Grpc-Timeout": "5"}},
		{name: "timeout long past", path: "/v3/kv/range", body: foo, headers: map[string]string{"Grpc-Timeout": "-5S"}},
		{name: "API version", path: "/v3/kv/range", body: foo, headers: map[string]string{"Grpc-Metadata-Client-Api-Version": "3.7"}},
		{name: "has leader", path: "/v3/kv/range", body: foo, headers: map[string]string{"Grpc-Metadata-hasleader": "true"}},
		{name: "authorization without auth", path: "/v3/kv/range", body: foo, headers: map[string]string{"Authorization": "tok.1"}},
	} {
		p.sameReply(a)
	}
	large := `{"key":"Zm9v","value":"` + strings.Repeat("A", 1_600_000*4/3/4*4) + `"}`
	p.post("too large a request", "/v3/kv/put", large)
	// Above gRPC's own limit the text names the message's size, which is not known before all of it is there.
	over := `{"key":"Zm9v","value":"` + strings.Repeat("A", 6_000_000) + `"}`
	etcd, errE := p.etcd.ask(ask{path: "/v3/kv/put", body: over})
	ours, errO := p.ours.ask(ask{path: "/v3/kv/put", body: over})
	if errE != nil || errO != nil || etcd.status != ours.status {
		t.Errorf("an overlong request: etcd: %v %v, quorate: %v %v", etcd, errE, ours, errO)
	}
}

// The pages beside the gateway.
func TestSamePages(t *testing.T) {
	p := startPair(t, 1)
	get := func(path string) ask { return ask{name: path, method: "GET", path: path} }
	pages := []ask{
		get("/version"), get("/health"), get("/health?serializable=true"), get("/health?exclude=NOSPACE"),
		get("/livez"), get("/livez?verbose"), get("/livez?verbose&exclude=serializable_read"), get("/livez/serializable_read"), get("/livez/serializable_read?verbose"),
		get("/readyz"), get("/readyz?exclude=linearizable_read&exclude=nope"), get("/readyz?allowlist=non_learner"),
		get("/readyz/data_corruption?verbose"), get("/readyz/serializable_read?verbose"), get("/readyz/linearizable_read?verbose"), get("/readyz/non_learner?verbose"),
		get("/readyz?verbose&exclude=linearizable_read&exclude=serializable_read&exclude=data_corruption"),
		get("/livez/"), get("/livez/nope"), get("/livez/non_learner"), get("/readyz/nope"), get("/healthz"), get("/health/"),
		get("/"), get("/v2/keys"), get("/v2/stats/self"), get("/config/local/log"), get("/debug"), get("/debug/pprof/"), get("/members"), get("/favicon.ico"),
		get("//health"), get("/./version"), get("/a/../health?exclude=x"),
		{name: "method", method: "POST", path: "/health"}, {name: "method", method: "POST", path: "/livez"}, {name: "method", method: "PUT", path: "/readyz/non_learner"},
		{name: "method", method: "DELETE", path: "/version"}, {name: "method", method: "HEAD", path: "/version"}, {name: "method", method: "POST", path: "/debug/vars"},
		{name: "method", method: "OPTIONS", path: "/anything"}, {name: "method", method: "HEAD", path: "/health"}, {name: "method", method: "POST", path: "//health"},
	}
	// For a moment after its start etcd's storage is of an older version than its cluster.
	for _, s := range []*side{&p.etcd, &p.ours} {
		waitFor(t, 10*time.Second, s.name+" to have its versions", func() bool {
			r, err := s.ask(get("/version"))
			return err == nil && strings.Contains(r.body, `"storage":"3.7.0"`)
		})
	}
	for _, a := range pages {
		p.sameReply(a)
	}
	alarm := func(action, kind string) {
		p.post(action+" "+kind, "/v3/maintenance/alarm", `{"action":"`+action+`","memberID":"5","alarm":"`+kind+`"}`)
	}
	under := func(raised string, pages ...ask) {
		for _, a := range pages {
			a.name = raised + ": " + a.name
			p.sameReply(a)
		}
	}
	alarmed := []ask{
		get("/health?exclude=NOSPACE"), get("/health?exclude=CORRUPT"), get("/health?exclude=CORRUPT&exclude=NOSPACE"), get("/livez"), get("/readyz/data_corruption"),
		get("/readyz/data_corruption?verbose"), get("/readyz?verbose&exclude=linearizable_read&exclude=serializable_read&exclude=non_learner"),
	}
	for _, kind := range []string{"NOSPACE", "CORRUPT"} {
		alarm("ACTIVATE", kind)
		under(kind, append(alarmed, get("/health"))...)
		alarm("DEACTIVATE", kind)
	}
	// Under both etcd's /health names either: it takes the first of a map.
	alarm("ACTIVATE", "NOSPACE")
	alarm("ACTIVATE", "CORRUPT")
	under("both", alarmed...)
	alarm("DEACTIVATE", "CORRUPT")
	alarm("DEACTIVATE", "NOSPACE")
	// Both have the page; what is on it differs by language.
	for _, s := range []*side{&p.etcd, &p.ours} {
		r, err := s.ask(get("/debug/vars"))
		var vars map[string]any
		if err == nil {
			err = json.Unmarshal([]byte(r.body), &vars)
		}
		if err != nil || vars["cmdline"] == nil || vars["file_descriptor_limit"] == nil || vars["raft.status"] == nil {
			t.Errorf("%s: /debug/vars: %v %v", s.name, err, r)
		}
	}
}

// Who may ask: the host allow-list and CORS.
func TestSameAccess(t *testing.T) {
	p := startPair(t, 1, "--host-whitelist=127.0.0.1,good.example", "--cors=http://a.example:80,http://b.example:81")
	for _, a := range []ask{
		{name: "own address", method: "GET", path: "/health"},
		{name: "good host", method: "GET", path: "/health", host: "good.example"},
		{name: "good host and port", method: "GET", path: "/health", host: "good.example:99"},
		{name: "bad host", method: "GET", path: "/health", host: "evil.example"},
		{name: "bad host and port", path: "/v3/kv/range", body: `{"key":"AA=="}`, host: "evil.example:99"},
		{name: "IPv6", method: "GET", path: "/health", host: "[::1]:99"},
		{name: "good origin", method: "GET", path: "/version", headers: map[string]string{"Origin": "http://b.example:81"}},
		{name: "bad origin", method: "GET", path: "/version", headers: map[string]string{"Origin": "http://c.example"}},
		{name: "preflight", method: "OPTIONS", path: "/v3/kv/range", headers: map[string]string{"Origin": "http://a.example:80"}},
		{name: "preflight, bad origin", method: "OPTIONS", path: "/v3/kv/range", headers: map[string]string{"Origin": "http://a.example"}},
	} {
		p.sameReply(a)
	}
}

// The flags that take the gateway away and give HTTP and metrics ports of their own.
func TestSameListeners(t *testing.T) {
	p := startPair(t, 1, "--enable-grpc-gateway=false")
	for _, path := range []string{"/v3/kv/range", "/v3/", "/v3", "/v3beta/kv/range"} {
		p.post("no gateway", path, `{"key":"AA=="}`)
	}
	p.sameReply(ask{name: "health", method: "GET", path: "/health"})

	apart := &pair{t: t}
	for _, s := range []struct {
		side      *side
		name, bin string
	}{{&apart.etcd, "etcd", etcdBin(t)}, {&apart.ours, "quorate", quorateBin(t)}} {
		web, metrics := fmt.Sprintf("127.0.0.1:%d", freePort(t)), fmt.Sprintf("127.0.0.1:%d", freePort(t))
		*s.side = startSide(t, s.name, s.bin, 1, "--listen-client-http-urls=http://"+web, "--listen-metrics-urls=http://"+metrics)
		grpc := s.side.members[0].endpoint
		if _, err := client(t, grpc).Get(testContext(t, 10*time.Second), "a"); err != nil {
			t.Errorf("%s: gRPC on the client URL: %v", s.name, err)
		}
		if resp, err := http.Get("http://" + grpc + "/health"); err == nil {
			t.Errorf("%s: HTTP on the client URL: %s", s.name, resp.Status)
		}
		if resp, err := http.Get("http://" + metrics + "/metrics"); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: /metrics on its own URL: %v %v", s.name, resp, err)
		}
		// From here on the side's requests go to the HTTP port, and with those of the metrics port below.
		s.side.members[0].endpoint = web
		s.side.metrics = metrics
	}
	for range 2 {
		for _, a := range []ask{
			{name: "range", path: "/v3/kv/range", body: `{"key":"AA=="}`},
			{name: "version", method: "GET", path: "/version"}, {name: "health", method: "GET", path: "/health"}, {name: "livez", method: "GET", path: "/livez"},
			{name: "readyz", method: "GET", path: "/readyz/non_learner?verbose"}, {name: "vars", method: "POST", path: "/debug/vars"}, {name: "nothing", method: "GET", path: "/"},
			{name: "preflight", method: "OPTIONS", path: "/health"}, {name: "redirect", method: "GET", path: "//health"},
		} {
			apart.sameReply(a)
		}
		apart.etcd.members[0].endpoint, apart.ours.members[0].endpoint = apart.etcd.metrics, apart.ours.metrics
	}
}

// Heads of requests, byte by byte. What is no HTTP at all is told so here (400); etcd closes without a word.
func TestSameRawHTTP(t *testing.T) {
	p := startPair(t, 1)
	head := "GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
	for _, c := range []struct{ name, text string }{
		{"plain", head + "\r\n"},
		{"HTTP/1.0", "GET /version HTTP/1.0\r\n\r\n"},
		{"absolute", "GET http://a/version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"},
		{"no host", "GET /version HTTP/1.1\r\n\r\n"},
		{"no colon", head + "bad\r\n\r\n"},
		{"many headers", head + func() (s string) {
			for i := range 500 {
				s += fmt.Sprintf("X%d: 1\r\n", i)
			}
			return
		}() + "\r\n"},
		{"headers of 900 KB", head + "X: " + strings.Repeat("a", 900_000) + "\r\n\r\n"},
		{"headers of 1.1 MB", head + "X: " + strings.Repeat("a", 1_100_000) + "\r\n\r\n"},
		{"chunks", "POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"key\r\n8\r\n\":\"AA==\"\r\n1\r\n}\r\n0\r\n\r\n"},
	} {
		status := func(s *side) string {
			conn, err := net.Dial("tcp", s.members[0].endpoint)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			go io.WriteString(conn, c.text)
			line, _ := bufio.NewReader(conn).ReadString('\n')
			fields := strings.Fields(line)
			if len(fields) < 2 {
				return "closed"
			}
			return fields[1]
		}
		etcd, ours := status(&p.etcd), status(&p.ours)
		if etcd != ours {
			t.Errorf("%s: etcd %s, quorate %s", c.name, etcd, ours)
		}
	}
}
