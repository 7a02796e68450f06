package clientv3_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// family is what a page of metrics says of one name.
type family struct {
	kind    string
	labels  map[string]bool // the names of each sample's labels, joined
	buckets map[string]bool
	samples map[string]string // by name and labels as they stand
}

func metrics(t *testing.T, endpoint string) map[string]*family {
	t.Helper()
	resp, err := http.Get("http://" + endpoint + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	families := map[string]*family{}
	label := regexp.MustCompile(`([A-Za-z_]+)="((?:[^"\\]|\\.)*)"`)
	sample := regexp.MustCompile(`^([a-zA-Z_:]+)(\{.*\})? (\S+)$`)
	lines := bufio.NewReader(resp.Body)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return families
		}
		if err != nil {
			t.Fatal(err)
		}
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			families[name] = &family{kind: kind, labels: map[string]bool{}, buckets: map[string]bool{}, samples: map[string]string{}}
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		parts := sample.FindStringSubmatch(line)
		if parts == nil {
			t.Fatalf("%s: no line of metrics: %q", endpoint, line)
		}
		name := parts[1]
		f := families[name]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); f == nil && ok {
				f = families[base]
			}
		}
		if f == nil {
			t.Fatalf("%s: a sample without a type: %q", endpoint, line)
		}
		var names []string
		for _, l := range label.FindAllStringSubmatch(parts[2], -1) {
			if l[1] == "le" {
				// Go's library writes 1e+06 where others write 1000000.
				f.buckets[strconv.FormatFloat(number(l[2]), 'g', -1, 64)] = true
				continue
			}
			names = append(names, l[1])
		}
		slices.Sort(names)
		f.labels[strings.Join(names, ",")] = true
		f.samples[name+parts[2]] = parts[3]
	}
}

// What etcd shows and we do not, by docs/operations.md: a name, or the beginning of names where it ends in *.
var withoutSubject = []string{
	"go_*", "etcd_server_go_version",
	"etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
	"etcd_debugging_disk_backend_commit_spill_duration_seconds",
	"etcd_debugging_disk_backend_commit_write_duration_seconds",
	"etcd_mvcc_db_open_read_transactions",
	"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
	"etcd_debugging_snap_save_*", "etcd_snap_*",
	"etcd_debugging_auth_revision",
	"etcd_server_feature_enabled",
	"etcd_debugging_store_*", "etcd_grpc_proxy_*",
}

func matches(pattern, name string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	return name == pattern || open && strings.HasPrefix(name, prefix)
}

func anyMatches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
}

// The same names, types, labels and buckets after the same work; and the same numbers where they depend on
// nothing else.
func TestSameMetrics(t *testing.T) {
	p := startPair(t, 3, "--metrics=extensive")
	for _, s := range []*side{&p.etcd, &p.ours} {
		lead(t, s)
		work(t, s)
		// Peers are counted as lost, and messages to them as failed, from the first one on: let both have some.
		s.members[2].kill()
		waitFor(t, 10*time.Second, s.name+" counts failures to send to a dead member", func() bool {
			return metrics(t, s.members[0].endpoint)["etcd_network_peer_sent_failures_total"] != nil
		})
		s.members[2].awaitReady(s.members[2].start())
	}
	// Probes between members come every four seconds.
	time.Sleep(5 * time.Second)
	etcd, ours := metrics(t, p.etcd.members[0].endpoint), metrics(t, p.ours.members[0].endpoint)
	for _, name := range slices.Sorted(maps.Keys(etcd)) {
		e, o := etcd[name], ours[name]
		switch absent := anyMatches(withoutSubject, name); {
		case o == nil && !absent:
			t.Errorf("%s (%s) is missing", name, e.kind)
		case o == nil:
		case absent:
			t.Errorf("%s is there, but listed as without subject", name)
		case e.kind != o.kind:
			t.Errorf("%s: etcd has a %s, we a %s", name, e.kind, o.kind)
		case !maps.Equal(e.labels, o.labels):
			t.Errorf("%s: labels: etcd %v, we %v", name, slices.Sorted(maps.Keys(e.labels)), slices.Sorted(maps.Keys(o.labels)))
		case !maps.Equal(e.buckets, o.buckets):
			t.Errorf("%s: buckets: etcd %v, we %v", name, slices.Sorted(maps.Keys(e.buckets)), slices.Sorted(maps.Keys(o.buckets)))
		}
	}
	for name := range ours {
		if etcd[name] == nil && !strings.HasPrefix(name, "quorate_") {
			t.Errorf("%s is not etcd's", name)
		}
	}
	for _, sample := range []string{
		"etcd_mvcc_put_total", "etcd_mvcc_delete_total", "etcd_debugging_mvcc_keys_total", "etcd_debugging_mvcc_total_put_size_in_bytes",
		"etcd_debugging_mvcc_current_revision", "etcd_debugging_mvcc_compact_revision", "etcd_mvcc_txn_total",
		"etcd_server_has_leader", "etcd_server_is_learner", "etcd_server_proposals_failed_total", "etcd_server_proposals_pending",
		"etcd_server_health_success", "etcd_server_health_failures", "etcd_server_quota_backend_bytes",
		`etcd_server_version{server_version="3.7.3"}`, `etcd_cluster_version{cluster_version="3.7"}`,
		`etcd_server_healthcheck{name="serializable_read",type="livez"}`, `etcd_server_healthchecks_total{name="non_learner",status="success",type="readyz"}`,
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
		`grpc_server_handled_total{grpc_code="InvalidArgument",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
		`grpc_server_started_total{grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
		`grpc_server_handling_seconds_count{grpc_method="Txn",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
		`etcd_server_apply_duration_seconds_count{op="Put",success="true",version="v3"}`, `etcd_server_apply_duration_seconds_count{op="Txn",success="true",version="v3"}`,
		`etcd_server_apply_duration_seconds_count{op="DeleteRange",success="true",version="v3"}`, `etcd_server_apply_duration_seconds_count{op="Put",success="false",version="v3"}`,
		`etcd_server_request_duration_seconds_count{success="true",type="Put"}`, `etcd_server_request_duration_seconds_count{success="true",type="Range"}`,
		`etcd_server_request_duration_seconds_count{success="true",type="ReadonlyTxn"}`,
		"etcd_debugging_lease_granted_total", "etcd_debugging_lease_revoked_total", "etcd_debugging_lease_ttl_total_sum",
		"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count", "etcd_debugging_mvcc_db_compaction_keys_total",
	} {
		name, _, _ := strings.Cut(sample, "{")
		name = strings.TrimSuffix(strings.TrimSuffix(name, "_count"), "_sum")
		if etcd[name] == nil || ours[name] == nil {
			continue // said above
		}
		e, o := etcd[name].samples[sample], ours[name].samples[sample]
		if number(e) != number(o) || e == "" {
			t.Errorf("%s: etcd %s, we %s", sample, e, o)
		}
	}
}

// number is a sample's value; -1 where there is none.
func number(text string) float64 {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return -1
	}
	return n
}

// lead makes the first member the leader, who sends to all others.
func lead(t *testing.T, s *side) {
	t.Helper()
	ctx := testContext(t, 30*time.Second)
	cl := client(t, s.endpoints()...)
	status, err := cl.Status(ctx, s.members[0].endpoint)
	must(t, err)
	waitFor(t, 30*time.Second, s.name+": the first member leads", func() bool {
		leader := s.leader(ctx, cl)
		if leader == s.members[0] {
			return true
		}
		// Who leads by now, if that fails, is asked next.
		_, _ = client(t, leader.endpoint).MoveLeader(ctx, status.Header.MemberId)
		return false
	})
}

// work is what both do before they are compared, all of it on the first member.
func work(t *testing.T, s *side) {
	ctx := testContext(t, 60*time.Second)
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	c := client(t, s.members[0].endpoint)
	must(c.Delete(ctx, "nothing"))
	for i := range 20 {
		must(c.Put(ctx, fmt.Sprintf("k%d", i%5), strings.Repeat("v", i)))
	}
	must(c.Get(ctx, "k1"))
	must(c.Get(ctx, "k", clientv3.WithPrefix(), clientv3.WithSerializable()))
	must(c.Txn(ctx).Then(clientv3.OpPut("t1", "x"), clientv3.OpPut("t2", "x"), clientv3.OpDelete("k2"), clientv3.OpGet("k1")).Commit())
	must(c.Txn(ctx).Then(clientv3.OpGet("k1"), clientv3.OpGet("k3")).Commit())
	must(c.Compact(ctx, 10, clientv3.WithCompactPhysical()))
	must(c.HashKV(ctx, s.members[0].endpoint, 0))
	kv := pb.NewKVClient(s.conn)
	if _, err := kv.Put(ctx, &pb.PutRequest{}); err == nil {
		t.Fatalf("%s: a put without a key", s.name)
	}
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Lease: 77}); err == nil {
		t.Fatalf("%s: a put on no lease", s.name)
	}
	lease, err := c.Grant(ctx, 600)
	must(lease, err)
	must(c.KeepAliveOnce(ctx, lease.ID))
	must(c.Revoke(ctx, lease.ID))
	for _, path := range []string{"/health", "/livez", "/readyz"} {
		fetch(ctx, t, "http://"+s.members[0].endpoint+path)
	}
}

func fetch(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
}

// Keys and bytes under prefixes that the operator named.
func TestPrefixMetrics(t *testing.T) {
	c := startCluster(t, quorateBin(t), 1, "--metrics-prefixes=/a/,/b/,/none/")
	cl := client(t, c.endpoints()...)
	ctx := testContext(t, 30*time.Second)
	for _, key := range []string{"/a/1", "/a/2", "/a/3", "/a", "/b/1", "/c/1"} {
		if _, err := cl.Put(ctx, key, "value"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cl.Delete(ctx, "/a/2"); err != nil {
		t.Fatal(err)
	}
	page := metrics(t, c.members[0].endpoint)
	want := map[string]string{`{prefix="/a/"}`: "2", `{prefix="/b/"}`: "1", `{prefix="/none/"}`: "0"}
	for labels, n := range want {
		if got := page["quorate_prefix_keys"].samples["quorate_prefix_keys"+labels]; got != n {
			t.Errorf("keys%s: %s, want %s", labels, got, n)
		}
	}
	a, b := page["quorate_prefix_bytes"].samples[`quorate_prefix_bytes{prefix="/a/"}`], page["quorate_prefix_bytes"].samples[`quorate_prefix_bytes{prefix="/b/"}`]
	// A KeyValue: key, three small numbers and the value, each behind a tag, bytes behind a length.
	if a != "38" || b != "19" {
		t.Errorf("bytes: /a/ %s, /b/ %s, want 38 and 19", a, b)
	}
}
