package clientv3_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

// option is an OpOption (or some) with a name for messages.
type option struct {
	name string
	opts []clientv3.OpOption
}

func with(name string, opts ...clientv3.OpOption) option { return option{name, opts} }

// optionKeys are ten keys, so that rows that tie in a sort come in one order from etcd too (it sorts up to
// twelve stably); binary ones, and prefixes of each other, are among them.
var optionKeys = []string{"a", "a/1", "a/1/x", "a/2", "a0", "b", "b\x00", "b\xff", "b\xff\xff", "\xff"}

const optionRevision = 31

// fillForOptions writes, rewrites and deletes the keys so that their order by name, by value, by version,
// by creation and by change are five different ones. It ends at optionRevision, compacted at 9.
func (w *twins) fillForOptions() {
	w.t.Helper()
	for i := range 28 {
		key := optionKeys[(i*7)%len(optionKeys)]
		what := fmt.Sprintf("fill, step %d", i)
		if i%9 == 8 {
			w.same(what, op(clientv3.OpDelete(key, clientv3.WithPrevKV())))
		} else {
			w.same(what, op(clientv3.OpPut(key, fmt.Sprintf("v%d", (i*5)%11), clientv3.WithPrevKV())))
		}
	}
	for i, key := range []string{"a/1", "a0", "a/1"} {
		w.same("fill, again", op(clientv3.OpPut(key, fmt.Sprint(i))))
	}
	w.same("compact", func(ctx context.Context, c *clientv3.Client) (any, error) {
		return c.Compact(ctx, 9, clientv3.WithCompactPhysical())
	})
	if all, err := w.same("filled", get("", clientv3.WithPrefix())); err != nil || all.(*clientv3.GetResponse).Header.Revision != optionRevision {
		w.t.Fatalf("filled to %v, %v", all, err)
	}
}

// spans are what a Get may name: keys and ranges of them.
var spans = []struct {
	key string
	option
}{
	{"a", with("one key")},
	{"nothing", with("no such key")},
	{"", with("the empty key")},
	{"a", with("WithPrefix", clientv3.WithPrefix())},
	{"", with("WithPrefix of all", clientv3.WithPrefix())},
	{"b\xff", with("WithPrefix that ends in ff", clientv3.WithPrefix())},
	{"\xff", with("WithPrefix without an end", clientv3.WithPrefix())},
	{"a/2", with("WithFromKey", clientv3.WithFromKey())},
	{"", with("WithFromKey of all", clientv3.WithFromKey())},
	{"a/", with("WithRange", clientv3.WithRange("b"))},
	{"b", with("WithRange, reversed", clientv3.WithRange("a"))},
	{"a", with("WithRange, empty end", clientv3.WithRange(""))},
	{"a", with("WithRange over everything", clientv3.WithRange("\x00"))},
}

// getOptions is every option of Get, with the values at which it changes its mind.
func getOptions() []option {
	list := []option{
		with("WithSerializable", clientv3.WithSerializable()),
		with("WithKeysOnly", clientv3.WithKeysOnly()),
		with("WithCountOnly", clientv3.WithCountOnly()),
		with("WithFirstCreate", clientv3.WithFirstCreate()...),
		with("WithLastCreate", clientv3.WithLastCreate()...),
		with("WithFirstKey", clientv3.WithFirstKey()...),
		with("WithLastKey", clientv3.WithLastKey()...),
		with("WithFirstRev", clientv3.WithFirstRev()...),
		with("WithLastRev", clientv3.WithLastRev()...),
	}
	for _, n := range []int64{-1, 1, 3, 9, 10, 11} {
		list = append(list, with(fmt.Sprintf("WithLimit(%d)", n), clientv3.WithLimit(n)))
	}
	for _, rev := range []int64{-1, 1, 8, 9, 10, 20, optionRevision, optionRevision + 1} {
		list = append(list, with(fmt.Sprintf("WithRev(%d)", rev), clientv3.WithRev(rev)))
	}
	for _, target := range []clientv3.SortTarget{clientv3.SortByKey, clientv3.SortByVersion, clientv3.SortByCreateRevision,
		clientv3.SortByModRevision, clientv3.SortByValue, 5} {
		for _, order := range []clientv3.SortOrder{clientv3.SortNone, clientv3.SortAscend, clientv3.SortDescend, 3} {
			name := fmt.Sprintf("WithSort(%d, %d)", target, order)
			if order == clientv3.SortNone {
				name += " (sort without order)"
			}
			list = append(list, with(name, clientv3.WithSort(target, order)))
		}
	}
	for _, rev := range []int64{-1, 12, 20, 30} {
		list = append(list,
			with(fmt.Sprintf("WithMinModRev(%d)", rev), clientv3.WithMinModRev(rev)),
			with(fmt.Sprintf("WithMaxModRev(%d)", rev), clientv3.WithMaxModRev(rev)),
			with(fmt.Sprintf("WithMinCreateRev(%d)", rev), clientv3.WithMinCreateRev(rev)),
			with(fmt.Sprintf("WithMaxCreateRev(%d)", rev), clientv3.WithMaxCreateRev(rev)))
	}
	return list
}

// TestSameGetOptions asks both servers for every span with every option of Get, and for everything with
// every pair of options, by Get and by GetStream.
func TestSameGetOptions(t *testing.T) {
	t.Parallel()
	w := startTwins(t, 1)
	w.fillForOptions()
	options := getOptions()
	streams := 0
	ask := func(what, key string, opts ...clientv3.OpOption) {
		answer, err := w.same(what, get(key, opts...))
		if err == nil && answer.(*clientv3.GetResponse).More && strings.Contains(what, "sort without order") {
			return // etcd 3.7.3 counts wrongly there, see TestSameRanges
		}
		streams++
		w.same(what+", streamed", getStream(key, opts...))
	}
	for _, s := range spans {
		ask(s.name, s.key, s.opts...)
		for _, o := range options {
			if clientv3.IsOptsWithFromKey(s.opts) && clientv3.IsOptsWithPrefix(o.opts) {
				continue // clientv3 panics
			}
			ask(s.name+", "+o.name, s.key, append(s.opts[:len(s.opts):len(s.opts)], o.opts...)...)
		}
	}
	for i, a := range options {
		for _, b := range options[i+1:] {
			opts := append([]clientv3.OpOption{clientv3.WithPrefix()}, a.opts...)
			ask(fmt.Sprintf("all, %s, %s", a.name, b.name), "", append(opts, b.opts...)...)
		}
	}
	t.Logf("%d reads, %d of them streamed too, %d options", w.requests-streams, streams, len(options))
}

// TestSameWrites puts and deletes with every option on both servers.
func TestSameWrites(t *testing.T) {
	t.Parallel()
	w := startTwins(t, 1)
	w.fillForOptions()
	all := func() { w.same("everything", get("", clientv3.WithPrefix())) }
	puts := []option{
		with("plain"), with("WithPrevKV", clientv3.WithPrevKV()), with("WithIgnoreValue", clientv3.WithIgnoreValue()),
		with("WithIgnoreLease", clientv3.WithIgnoreLease()), with("WithLease(none such)", clientv3.WithLease(4711)),
		with("WithLease(0)", clientv3.WithLease(0)),
	}
	for _, key := range []string{"a", "new", ""} {
		for i, a := range puts {
			for _, b := range puts[i:] {
				for _, value := range []string{"", "value"} {
					what := fmt.Sprintf("put %q=%q, %s, %s", key, value, a.name, b.name)
					w.same(what, op(clientv3.OpPut(key, value, append(a.opts[:len(a.opts):len(a.opts)], b.opts...)...)))
				}
			}
		}
		w.same("delete", op(clientv3.OpDelete("new")))
	}
	all()
	for i, s := range spans {
		w.fillForDeletes(i)
		opts := s.opts
		if i%2 == 0 {
			opts = append(opts[:len(opts):len(opts)], clientv3.WithPrevKV())
		}
		w.same("delete, "+s.name, op(clientv3.OpDelete(s.key, opts...)))
		all()
	}
	for _, rev := range []int64{0, -1, 9, 40, 1 << 40} {
		for _, opts := range [][]clientv3.CompactOption{nil, {clientv3.WithCompactPhysical()}} {
			w.same(fmt.Sprintf("compact at %d", rev), func(ctx context.Context, c *clientv3.Client) (any, error) {
				return c.Compact(ctx, rev, opts...)
			})
		}
	}
	for rev := int64(38); rev < 43; rev++ {
		w.same("after the compaction", get("", clientv3.WithPrefix(), clientv3.WithRev(rev)))
	}
}

func (w *twins) fillForDeletes(round int) {
	w.t.Helper()
	var ops []clientv3.Op
	for _, key := range optionKeys {
		ops = append(ops, clientv3.OpPut(key, fmt.Sprint(round)))
	}
	w.same("fill for deletes", op(clientv3.OpTxn(nil, ops, nil)))
}

// TestSameTxns commits transactions made of clientv3's comparisons, nested by OpTxn, on both servers.
func TestSameTxns(t *testing.T) {
	t.Parallel()
	w := startTwins(t, 1)
	w.fillForOptions()
	var cmps []clientv3.Cmp
	for _, sign := range []string{"=", "!=", "<", ">"} {
		for _, key := range []string{"a", "a0", "nothing"} {
			for _, n := range []int64{-1, 0, 1, 2, 25, optionRevision} {
				cmps = append(cmps, clientv3.Compare(clientv3.Version(key), sign, n),
					clientv3.Compare(clientv3.CreateRevision(key), sign, n), clientv3.Compare(clientv3.ModRevision(key), sign, n),
					clientv3.Compare(clientv3.LeaseValue(key), sign, n))
			}
			for _, v := range []string{"", "v4", "v5"} {
				cmps = append(cmps, clientv3.Compare(clientv3.Value(key), sign, v))
			}
		}
	}
	cmps = append(cmps, clientv3util.KeyExists("a"), clientv3util.KeyMissing("a"), clientv3util.KeyExists("b0"), clientv3util.KeyMissing("b0"))
	for i, cmp := range cmps {
		for _, cmp := range []clientv3.Cmp{cmp, cmp.WithPrefix(), cmp.WithRange("b"), cmp.WithRange("\x00")} {
			w.same(fmt.Sprintf("comparison %d: %v", i, cmp.GetCompare()), op(clientv3.OpTxn([]clientv3.Cmp{cmp},
				[]clientv3.Op{clientv3.OpGet("a")}, []clientv3.Op{clientv3.OpGet("b"), clientv3.OpGet("b", clientv3.WithCountOnly())})))
		}
	}

	yes, no := clientv3util.KeyExists("a"), clientv3util.KeyMissing("a")
	put := func(key string) clientv3.Op { return clientv3.OpPut(key, "in txn", clientv3.WithPrevKV()) }
	read := clientv3.OpGet("a", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend))
	txn := func(cmp clientv3.Cmp, then, otherwise []clientv3.Op) clientv3.Op {
		return clientv3.OpTxn([]clientv3.Cmp{cmp}, then, otherwise)
	}
	nested := func(depth int, innermost ...clientv3.Op) clientv3.Op {
		o := clientv3.OpTxn(nil, innermost, nil)
		for i := range depth {
			if i%2 == 0 {
				o = txn(no, nil, []clientv3.Op{o, read})
			} else {
				o = txn(yes, []clientv3.Op{read, o}, nil)
			}
		}
		return o
	}
	many := func(n int) []clientv3.Op {
		var ops []clientv3.Op
		for i := range n {
			ops = append(ops, put(fmt.Sprintf("many/%03d", i)))
		}
		return ops
	}
	for _, c := range []struct {
		name string
		op   clientv3.Op
	}{
		{"nothing", clientv3.OpTxn(nil, nil, nil)},
		{"reads what it wrote", txn(yes, []clientv3.Op{put("a/new"), read, clientv3.OpDelete("a/1", clientv3.WithPrefix(), clientv3.WithPrevKV()), read}, nil)},
		{"either way", txn(no, []clientv3.Op{put("x")}, []clientv3.Op{put("y"), read})},
		{"three deep", nested(3, put("deep"), read)},
		{"forty deep", nested(40, put("deeper"))},
		{"comparison in a transaction", clientv3.OpTxn(nil, []clientv3.Op{put("made"), txn(clientv3util.KeyExists("made"), []clientv3.Op{put("seen")}, []clientv3.Op{put("unseen")}), read}, nil)},
		{"both branches write the same", txn(yes, []clientv3.Op{put("x")}, []clientv3.Op{put("x")})},
		{"one key twice", clientv3.OpTxn(nil, []clientv3.Op{put("x"), put("x")}, nil)},
		{"one key twice, nested", clientv3.OpTxn(nil, []clientv3.Op{put("x"), nested(2, put("x"))}, nil)},
		{"one key twice, in two nested", clientv3.OpTxn(nil, []clientv3.Op{nested(1, put("x")), nested(1, put("x"))}, nil)},
		{"delete over a put", clientv3.OpTxn(nil, []clientv3.Op{put("x1"), clientv3.OpDelete("x", clientv3.WithPrefix())}, nil)},
		{"delete over a delete", clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete("x", clientv3.WithPrefix()), clientv3.OpDelete("x")}, nil)},
		{"128 operations", clientv3.OpTxn(nil, many(128), nil)},
		{"129 operations", clientv3.OpTxn(nil, many(129), nil)},
		{"128 in a nested", nested(1, many(128)...)},
		{"129 in a nested", nested(1, many(129)...)},
		{"129 in the branch not taken", txn(yes, nil, many(129))},
		{"empty key", nested(1, put(""))},
		{"bad sort", nested(1, clientv3.OpGet("a", clientv3.WithSort(7, 0)))},
		{"future revision", nested(1, put("not there"), clientv3.OpGet("a", clientv3.WithRev(1<<40)))},
		{"compacted revision", nested(1, put("not there"), clientv3.OpGet("a", clientv3.WithRev(3)))},
		{"compacted, in the untaken", txn(yes, nil, []clientv3.Op{clientv3.OpGet("a", clientv3.WithRev(3))})},
		{"value ignored", nested(1, clientv3.OpPut("b", "", clientv3.WithIgnoreValue(), clientv3.WithPrevKV()))},
		{"value ignored, no such key", nested(1, put("not there"), clientv3.OpPut("c", "", clientv3.WithIgnoreValue()))},
		{"unknown lease", nested(1, put("not there"), clientv3.OpPut("b", "", clientv3.WithLease(4711)))},
		{"comparison without key", txn(clientv3util.KeyExists(""), nil, nil)},
		{"serializable reads alone", clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("a", clientv3.WithSerializable())}, nil)},
		{"reads of the past alone", clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("a", clientv3.WithRev(20))}, nil)},
		{"a transaction of no operations", clientv3.OpTxn([]clientv3.Cmp{no}, nil, nil)},
		{"a nested one of no operations", nested(1, clientv3.OpTxn([]clientv3.Cmp{no}, nil, nil))},
		{"count, keys and limit in it", nested(0, clientv3.OpGet("a", clientv3.WithPrefix(), clientv3.WithCountOnly()), clientv3.OpGet("", clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(3)))},
		{"first and last by revision in it", nested(0, clientv3.OpGet("", clientv3.WithFirstRev()...), clientv3.OpGet("", clientv3.WithLastRev()...))},
	} {
		w.same(c.name, op(c.op))
		w.same("after: "+c.name, get("", clientv3.WithPrefix()))
	}
	t.Logf("%d programs, %d comparisons", w.requests, len(cmps)*4)
}

// TestSameKubernetesClient runs clientv3's subset for Kubernetes on both servers: optimistic writes with the
// current value on failure, counts, and lists in pages.
func TestSameKubernetesClient(t *testing.T) {
	w := startTwins(t, 1)
	do := func(what string, f func(ctx context.Context, k *kubernetes.Client) (any, error)) {
		t.Helper()
		w.same(what, func(ctx context.Context, c *clientv3.Client) (any, error) {
			k := &kubernetes.Client{Client: c}
			k.Kubernetes = k
			return f(ctx, k)
		})
	}
	for i := range 25 {
		key := fmt.Sprintf("/registry/pods/%02d", i%20)
		for _, expected := range []int64{0, int64(i + 1 - 20), 2} {
			do("optimistic put", func(ctx context.Context, k *kubernetes.Client) (any, error) {
				return k.OptimisticPut(ctx, key, fmt.Appendf(nil, "pod %d", i), expected, kubernetes.PutOptions{GetOnFailure: i%3 > 0})
			})
		}
	}
	for _, limit := range []int64{0, 1, 7, 20} {
		do(fmt.Sprintf("list by %d", limit), func(ctx context.Context, k *kubernetes.Client) (any, error) {
			var pages []kubernetes.ListResponse
			opts := kubernetes.ListOptions{Limit: limit}
			for {
				page, err := k.List(ctx, "/registry/pods/", opts)
				if err != nil {
					return nil, err
				}
				pages = append(pages, page)
				if limit == 0 || page.Count <= int64(len(page.Kvs)) {
					return pages, nil
				}
				opts.Revision = page.Revision
				opts.Continue = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
			}
		})
	}
	do("count", func(ctx context.Context, k *kubernetes.Client) (any, error) {
		return k.Count(ctx, "/registry/", kubernetes.CountOptions{})
	})
	for _, expected := range []int64{0, 2, 21, 25} {
		do("optimistic delete", func(ctx context.Context, k *kubernetes.Client) (any, error) {
			return k.OptimisticDelete(ctx, "/registry/pods/03", expected, kubernetes.DeleteOptions{GetOnFailure: true})
		})
		do("get", func(ctx context.Context, k *kubernetes.Client) (any, error) {
			return k.Get(ctx, "/registry/pods/03", kubernetes.GetOptions{})
		})
	}
}
