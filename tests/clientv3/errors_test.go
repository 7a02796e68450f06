package clientv3_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// refusal is one request and what etcd says to it: the code, and the text as the contract has it (empty:
// whatever etcd says; both servers must say the same in any case).
type refusal struct {
	name string
	req  any
	code codes.Code
	text string
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}
func opPut(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}
func opDelete(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}
func opTxn(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}
func then(ops ...*pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: ops} }
func puts(keys ...string) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for _, k := range keys {
		ops = append(ops, opPut(&pb.PutRequest{Key: []byte(k)}))
	}
	return ops
}
func manyPuts(n int) []*pb.RequestOp {
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("many/%d", i))
	}
	return puts(keys...)
}

const (
	emptyKey   = "etcdserver: key is not provided"
	notFound   = "etcdserver: key not found"
	valueGiven = "etcdserver: value is provided"
	leaseGiven = "etcdserver: lease is provided"
	tooMany    = "etcdserver: too many operations in txn request"
	duplicate  = "etcdserver: duplicate key given in txn request"
	compacted  = "etcdserver: mvcc: required revision has been compacted"
	future     = "etcdserver: mvcc: required revision is a future revision"
	noLease    = "etcdserver: requested lease not found"
	badSort    = "etcdserver: invalid sort option"
	tooLarge   = "etcdserver: request is too large"
	streamSort = "RangeStream does not support custom sort orders"
	streamRevs = "RangeStream does not support revision filters"
)

// refusals are requests that KV must refuse, and others next to them that it must not, for a store with the
// keys a (revision 2 to 9), b and c, compacted at 6, at revision 11; maxOps and maxBytes are the limits.
func refusals(maxOps, maxBytes int) []refusal {
	const (
		bad = codes.InvalidArgument
		oor = codes.OutOfRange
		ok  = codes.OK
	)
	key, all := []byte("a"), []byte{0}
	big := func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }
	overlong := maxBytes + 512*1024
	nested := func(depth int, op *pb.RequestOp) *pb.TxnRequest {
		txn := then(op)
		for range depth {
			txn = then(opTxn(txn))
		}
		return txn
	}
	list := []refusal{
		{"range: no key", &pb.RangeRequest{}, bad, emptyKey},
		{"range: no key but an end", &pb.RangeRequest{RangeEnd: all}, bad, emptyKey},
		{"range: sort order", &pb.RangeRequest{Key: key, SortOrder: 3}, bad, badSort},
		{"range: negative sort order", &pb.RangeRequest{Key: key, SortOrder: -1}, bad, badSort},
		{"range: sort target", &pb.RangeRequest{Key: key, SortTarget: 5}, bad, badSort},
		{"range: no key and sort order", &pb.RangeRequest{SortOrder: 3}, bad, emptyKey},
		{"range: future revision", &pb.RangeRequest{Key: key, Revision: 12}, oor, future},
		{"range: serializable at a future revision", &pb.RangeRequest{Key: key, Revision: 12, Serializable: true}, oor, future},
		{"range: compacted revision", &pb.RangeRequest{Key: key, Revision: 5}, oor, compacted},
		{"range: count at a compacted revision", &pb.RangeRequest{Key: key, Revision: 5, CountOnly: true}, oor, compacted},
		{"range: keys at a compacted revision", &pb.RangeRequest{Key: key, RangeEnd: all, Revision: 1, KeysOnly: true}, oor, compacted},
		{"range: empty range at a compacted revision", &pb.RangeRequest{Key: []byte("z"), RangeEnd: key, Revision: 1}, oor, compacted},
		{"range: empty range at a future revision", &pb.RangeRequest{Key: []byte("z"), RangeEnd: key, Revision: 100}, oor, future},
		{"range: at the compacted revision", &pb.RangeRequest{Key: key, Revision: 6}, ok, ""},
		{"range: at the current revision", &pb.RangeRequest{Key: key, Revision: 11}, ok, ""},
		{"range: negative revision", &pb.RangeRequest{Key: key, Revision: -7}, ok, ""},
		{"range: negative limit", &pb.RangeRequest{Key: key, RangeEnd: all, Limit: -7}, ok, ""},
		{"range: negative filters", &pb.RangeRequest{Key: key, RangeEnd: all, MinModRevision: -1, MaxCreateRevision: -2}, ok, ""},
		{"range: end before key", &pb.RangeRequest{Key: []byte("b"), RangeEnd: key}, ok, ""},
		{"range: end is key", &pb.RangeRequest{Key: key, RangeEnd: key}, ok, ""},
		{"range: large key", &pb.RangeRequest{Key: big(maxBytes + 1000)}, ok, ""},
		{"range: oversized message", &pb.RangeRequest{Key: big(overlong + 1)}, codes.ResourceExhausted, "grpc: received message larger than max"},
		{"range: limit, target and no order", &pb.RangeRequest{Key: all, RangeEnd: all, Limit: 1, SortTarget: pb.RangeRequest_MOD}, ok, ""},
		{"range: limit, target and order", &pb.RangeRequest{Key: all, RangeEnd: all, Limit: 1, SortTarget: pb.RangeRequest_MOD, SortOrder: pb.RangeRequest_ASCEND}, ok, ""},
		{"range: limit and filter", &pb.RangeRequest{Key: all, RangeEnd: all, Limit: 1, MinModRevision: 10}, ok, ""},

		{"stream: no key", stream{&pb.RangeRequest{}}, bad, emptyKey},
		{"stream: sort option", stream{&pb.RangeRequest{Key: key, SortTarget: 9}}, bad, badSort},
		{"stream: descending", stream{&pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_DESCEND}}, codes.Unimplemented, streamSort},
		{"stream: by version", stream{&pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_VERSION}}, codes.Unimplemented, streamSort},
		{"stream: sort order and filter", stream{&pb.RangeRequest{Key: key, SortOrder: pb.RangeRequest_DESCEND, MinModRevision: 1}}, codes.Unimplemented, streamSort},
		{"stream: ascending keys", stream{&pb.RangeRequest{Key: all, RangeEnd: all, SortOrder: pb.RangeRequest_ASCEND}}, ok, ""},
		{"stream: min_mod_revision", stream{&pb.RangeRequest{Key: key, MinModRevision: 1}}, codes.Unimplemented, streamRevs},
		{"stream: max_mod_revision", stream{&pb.RangeRequest{Key: key, MaxModRevision: 1}}, codes.Unimplemented, streamRevs},
		{"stream: min_create_revision", stream{&pb.RangeRequest{Key: key, MinCreateRevision: 1}}, codes.Unimplemented, streamRevs},
		{"stream: max_create_revision", stream{&pb.RangeRequest{Key: key, MaxCreateRevision: -1}}, codes.Unimplemented, streamRevs},
		{"stream: future revision", stream{&pb.RangeRequest{Key: key, Revision: 12}}, oor, future},
		{"stream: compacted revision", stream{&pb.RangeRequest{Key: key, Revision: 5}}, oor, compacted},
		{"stream: count at a compacted revision", stream{&pb.RangeRequest{Key: key, Revision: 5, CountOnly: true}}, oor, compacted},
		{"stream: nothing there", stream{&pb.RangeRequest{Key: []byte("none")}}, ok, ""},
		{"stream: count", stream{&pb.RangeRequest{Key: all, RangeEnd: all, CountOnly: true}}, ok, ""},
		{"stream: limit", stream{&pb.RangeRequest{Key: all, RangeEnd: all, Limit: 2}}, ok, ""},

		{"put: no key", &pb.PutRequest{Value: key}, bad, emptyKey},
		{"put: ignore_value and a value", &pb.PutRequest{Key: key, Value: key, IgnoreValue: true}, bad, valueGiven},
		{"put: ignore_lease and a lease", &pb.PutRequest{Key: key, Lease: 1, IgnoreLease: true}, bad, leaseGiven},
		{"put: both", &pb.PutRequest{Key: key, Value: key, IgnoreValue: true, Lease: 1, IgnoreLease: true}, bad, valueGiven},
		{"put: ignore_value, no such key", &pb.PutRequest{Key: []byte("none"), IgnoreValue: true}, bad, notFound},
		{"put: ignore_lease, no such key", &pb.PutRequest{Key: []byte("none"), IgnoreLease: true}, bad, notFound},
		{"put: ignore_value, deleted key", &pb.PutRequest{Key: []byte("gone"), IgnoreValue: true}, bad, notFound},
		{"put: unknown lease", &pb.PutRequest{Key: key, Lease: 4711}, codes.NotFound, noLease},
		{"put: negative lease", &pb.PutRequest{Key: key, Lease: -1}, codes.NotFound, noLease},
		{"put: unknown lease, no such key to ignore", &pb.PutRequest{Key: []byte("none"), IgnoreValue: true, Lease: 4711}, codes.NotFound, ""},
		{"put: too large a value", &pb.PutRequest{Key: key, Value: big(maxBytes + 1)}, bad, tooLarge},
		{"put: too large a key", &pb.PutRequest{Key: big(maxBytes + 1)}, bad, tooLarge},
		{"put: just too large", &pb.PutRequest{Key: key, Value: big(maxBytes - 10)}, bad, tooLarge},
		{"put: large but allowed", &pb.PutRequest{Key: []byte("large"), Value: big(maxBytes - 64)}, ok, ""},
		{"put: just below the message limit", &pb.PutRequest{Key: key, Value: big(overlong - 64)}, bad, tooLarge},
		{"put: oversized message", &pb.PutRequest{Key: key, Value: big(overlong + 1)}, codes.ResourceExhausted, "grpc: received message larger than max"},
		{"put: no key but too large", &pb.PutRequest{Value: big(maxBytes + 1)}, bad, emptyKey},

		{"delete: no key", &pb.DeleteRangeRequest{RangeEnd: all}, bad, emptyKey},
		{"delete: too large a key", &pb.DeleteRangeRequest{Key: big(maxBytes + 1)}, bad, tooLarge},
		{"delete: nothing there", &pb.DeleteRangeRequest{Key: []byte("none"), PrevKv: true}, ok, ""},
		{"delete: end before key", &pb.DeleteRangeRequest{Key: []byte("c"), RangeEnd: key}, ok, ""},

		{"compact: future revision", &pb.CompactionRequest{Revision: 1000}, oor, future},
		{"compact: compacted revision", &pb.CompactionRequest{Revision: 6}, oor, compacted},
		{"compact: compacted revision, physical", &pb.CompactionRequest{Revision: 3, Physical: true}, oor, compacted},
		{"compact: revision 0", &pb.CompactionRequest{}, oor, compacted},
		{"compact: negative revision", &pb.CompactionRequest{Revision: -5}, oor, compacted},

		{"hash: future revision", &pb.HashKVRequest{Revision: 1000}, oor, future},
		{"hash: compacted revision", &pb.HashKVRequest{Revision: 5}, oor, compacted},
		{"hash: at the compacted revision", &pb.HashKVRequest{Revision: 6}, ok, ""},
		{"hash: negative revision", &pb.HashKVRequest{Revision: -1}, ok, ""},

		{"txn: empty", &pb.TxnRequest{}, ok, ""},
		{"txn: only a compare", &pb.TxnRequest{Compare: []*pb.Compare{{Key: key}}}, ok, ""},
		{"txn: too many puts", then(manyPuts(maxOps + 1)...), bad, tooMany},
		{"txn: too many in the failure branch", &pb.TxnRequest{Failure: manyPuts(maxOps + 1)}, bad, tooMany},
		{"txn: too many compares", &pb.TxnRequest{Compare: slices.Repeat([]*pb.Compare{{Key: key}}, maxOps+1)}, bad, tooMany},
		{"txn: as many as allowed", then(manyPuts(maxOps)...), ok, ""},
		{"txn: as many of each as allowed", &pb.TxnRequest{Compare: slices.Repeat([]*pb.Compare{{Key: key}}, maxOps), Success: manyPuts(maxOps), Failure: manyPuts(maxOps)}, ok, ""},
		{"txn: nested beyond the budget", then(opTxn(then(manyPuts(maxOps)...))), bad, tooMany},
		{"txn: nested within the budget", then(opTxn(then(manyPuts(maxOps - 1)...))), ok, ""},
		{"txn: nested as deep as allowed", nested(maxOps-1, puts("deep")[0]), ok, ""},
		{"txn: nested too deep", nested(maxOps, puts("deep")[0]), bad, tooMany},
		{"txn: compare without key", &pb.TxnRequest{Compare: []*pb.Compare{{}}}, bad, emptyKey},
		{"txn: compare without key, too many puts", &pb.TxnRequest{Compare: []*pb.Compare{{}}, Success: manyPuts(maxOps + 1)}, bad, tooMany},
		{"txn: unset op", then(&pb.RequestOp{}), bad, notFound},
		{"txn: unset op in the failure branch", &pb.TxnRequest{Failure: []*pb.RequestOp{{}}}, bad, notFound},
		{"txn: unset op, nested", then(opTxn(then(&pb.RequestOp{}))), bad, notFound},
		{"txn: range without key", then(opRange(&pb.RangeRequest{})), bad, emptyKey},
		{"txn: put without key", then(puts("")...), bad, emptyKey},
		{"txn: delete without key", then(opDelete(&pb.DeleteRangeRequest{})), bad, emptyKey},
		{"txn: nested put without key", then(opTxn(&pb.TxnRequest{Failure: puts("")})), bad, emptyKey},
		{"txn: sort order", then(opRange(&pb.RangeRequest{Key: key, SortOrder: 9})), bad, badSort},
		{"txn: ignore_value and a value", then(opPut(&pb.PutRequest{Key: key, Value: key, IgnoreValue: true})), bad, valueGiven},
		{"txn: ignore_lease and a lease", then(opPut(&pb.PutRequest{Key: key, Lease: 1, IgnoreLease: true})), bad, leaseGiven},
		{"txn: ignore_value, no such key", then(opPut(&pb.PutRequest{Key: []byte("none"), IgnoreValue: true})), bad, notFound},
		{"txn: ignore_value, no such key, branch not taken", &pb.TxnRequest{Failure: []*pb.RequestOp{opPut(&pb.PutRequest{Key: []byte("none"), IgnoreValue: true})}}, ok, ""},
		{"txn: ignore_value of a key that the txn puts first", then(opPut(&pb.PutRequest{Key: []byte("new"), Value: key}), opTxn(then(opPut(&pb.PutRequest{Key: []byte("new2"), IgnoreValue: true})))), bad, notFound},
		{"txn: unknown lease", then(opPut(&pb.PutRequest{Key: key, Lease: 4711})), codes.NotFound, noLease},
		{"txn: unknown lease, nested, after a put", then(puts("before")[0], opTxn(then(opPut(&pb.PutRequest{Key: key, Lease: 4711})))), codes.NotFound, noLease},
		{"txn: the put before the unknown lease had no effect", &pb.RangeRequest{Key: []byte("before")}, ok, ""},
		{"txn: future revision", then(opRange(&pb.RangeRequest{Key: key, Revision: 100000})), oor, future},
		{"txn: compacted revision", then(opRange(&pb.RangeRequest{Key: key, Revision: 5})), oor, compacted},
		{"txn: compacted revision after a put", then(puts("before")[0], opRange(&pb.RangeRequest{Key: key, Revision: 5})), oor, compacted},
		{"txn: compacted revision in the branch not taken", &pb.TxnRequest{Failure: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: key, Revision: 5})}}, ok, ""},
		{"txn: serializable reads at a compacted revision", then(opRange(&pb.RangeRequest{Key: key, Revision: 5, Serializable: true})), oor, compacted},
		{"txn: read at the revision it makes", then(puts("self")[0], opRange(&pb.RangeRequest{Key: key, Revision: 1000})), oor, future},
		{"txn: two puts on one key", then(puts("k", "k")...), bad, duplicate},
		{"txn: two puts on one key, failure branch", &pb.TxnRequest{Failure: puts("k", "k")}, bad, duplicate},
		{"txn: put in both branches", &pb.TxnRequest{Success: puts("k"), Failure: puts("k")}, ok, ""},
		{"txn: put and delete", then(puts("k")[0], opDelete(&pb.DeleteRangeRequest{Key: []byte("k")})), bad, duplicate},
		{"txn: delete and put", then(opDelete(&pb.DeleteRangeRequest{Key: []byte("k")}), puts("k")[0]), bad, duplicate},
		{"txn: put in a deleted range", then(opDelete(&pb.DeleteRangeRequest{Key: []byte("j"), RangeEnd: []byte("l")}), puts("k")[0]), bad, duplicate},
		{"txn: put at the end of a deleted range", then(opDelete(&pb.DeleteRangeRequest{Key: []byte("j"), RangeEnd: []byte("k")}), puts("k")[0]), ok, ""},
		{"txn: put in a range deleted to the end", then(opDelete(&pb.DeleteRangeRequest{Key: []byte("j"), RangeEnd: all}), puts("k")[0]), ok, ""},
		{"txn: put in a range deleted from an empty range", then(opDelete(&pb.DeleteRangeRequest{Key: []byte("l"), RangeEnd: []byte("j")}), puts("k")[0]), ok, ""},
		{"txn: two deletes of one key", then(opDelete(&pb.DeleteRangeRequest{Key: []byte("k")}), opDelete(&pb.DeleteRangeRequest{Key: []byte("k")})), ok, ""},
		{"txn: nested put of a key put outside", then(puts("k")[0], opTxn(then(puts("k")...))), bad, duplicate},
		{"txn: nested put of a key deleted outside", then(opTxn(then(puts("k")...)), opDelete(&pb.DeleteRangeRequest{Key: []byte("k")})), bad, duplicate},
		{"txn: two nested puts", then(opTxn(then(puts("k")...)), opTxn(then(puts("k")...))), bad, duplicate},
		{"txn: nested puts in both branches", then(opTxn(&pb.TxnRequest{Success: puts("k"), Failure: puts("k")})), ok, ""},
		{"txn: nested puts in both branches and a sibling", then(opTxn(&pb.TxnRequest{Success: puts("k"), Failure: puts("k")}), opTxn(&pb.TxnRequest{Failure: puts("k")})), bad, duplicate},
		{"txn: nested delete, then nested put", then(opTxn(then(opDelete(&pb.DeleteRangeRequest{Key: []byte("k")}))), opTxn(then(puts("k")...))), bad, duplicate},
		{"txn: nested put, then nested delete", then(opTxn(then(puts("k")...)), opTxn(then(opDelete(&pb.DeleteRangeRequest{Key: []byte("k"), PrevKv: true})))), ok, ""},
		{"txn: nested delete and a put outside", then(puts("k")[0], opTxn(then(opDelete(&pb.DeleteRangeRequest{Key: []byte("k")})))), bad, duplicate},
		{"txn: unknown compare result", &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, Result: 9}}, Success: puts("result")}, ok, ""},
		{"txn: unknown compare target", &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, Target: 9}}, Success: puts("target")}, ok, ""},
		{"txn: operand of another target", &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Version{Version: 3}}}, Success: puts("operand")}, ok, ""},
		{"txn: value of no key", &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("none"), Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_Value{Value: key}}}, Success: puts("no-value")}, ok, ""},
		{"txn: values of an empty range", &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("n"), RangeEnd: []byte("o"), Target: pb.Compare_VALUE, Result: pb.Compare_NOT_EQUAL, TargetUnion: &pb.Compare_Value{Value: key}}}, Success: puts("no-values")}, ok, ""},
		{"txn: version of an empty range", &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("n"), RangeEnd: []byte("o"), Target: pb.Compare_VERSION}}, Success: puts("no-version")}, ok, ""},
		{"txn: too large", then(opPut(&pb.PutRequest{Key: []byte("x"), Value: big(maxBytes)})), bad, tooLarge},
		{"txn: too large in the branch not taken", &pb.TxnRequest{Failure: []*pb.RequestOp{opPut(&pb.PutRequest{Key: []byte("x"), Value: big(maxBytes)})}}, bad, tooLarge},
		{"txn: oversized message", then(opPut(&pb.PutRequest{Key: []byte("x"), Value: big(overlong)})), codes.ResourceExhausted, "grpc: received message larger than max"},
		{"txn: large but only reads", then(opRange(&pb.RangeRequest{Key: big(maxBytes)})), ok, ""},
	}
	return list
}

func TestSameRefusals(t *testing.T) {
	for _, limits := range []struct {
		ops, bytes int
		flags      []string
	}{
		{ops: 128, bytes: 1.5 * 1024 * 1024},
		{ops: 5, bytes: 20_000, flags: []string{"--max-txn-ops=5", "--max-request-bytes=20000"}},
	} {
		t.Run(fmt.Sprintf("%d-ops-%d-bytes", limits.ops, limits.bytes), func(t *testing.T) {
			p := startPair(t, 1, limits.flags...)
			for i := range 7 {
				p.same("load", &pb.PutRequest{Key: []byte("a"), Value: fmt.Append(nil, i)})
			}
			p.same("load", &pb.TxnRequest{Success: puts("b", "c", "gone")})
			p.same("load", &pb.DeleteRangeRequest{Key: []byte("gone")})
			p.same("load", &pb.PutRequest{Key: []byte("c"), Value: []byte("2")})
			if p.revision != 11 {
				t.Fatalf("the store is at revision %d", p.revision)
			}
			p.same("load", &pb.CompactionRequest{Revision: 6, Physical: true})
			for _, r := range refusals(limits.ops, limits.bytes) {
				before := p.failures
				etcd := p.same(r.name, r.req)
				if p.failures > before {
					p.resync()
				}
				if etcd.code != r.code || !strings.HasPrefix(etcd.message, r.text) {
					t.Errorf("%s: etcd itself says %v, not %v %q", r.name, etcd, r.code, r.text)
				}
			}
			// What was refused had no effect, what was not had the same.
			if p.failures == 0 {
				p.sameEverything("after the refusals")
			}
		})
	}
}

// raw passes bytes as they are.
type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (raw) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

// TestSameMalformed sends what is no request at all. The texts come from the gRPC libraries and differ;
// the code must not, and the server must go on.
func TestSameMalformed(t *testing.T) {
	p := startPair(t, 1)
	good, err := proto.Marshal(&pb.PutRequest{Key: []byte("a"), Value: []byte("b")})
	if err != nil {
		t.Fatal(err)
	}
	unknown := protowire.AppendTag(bytes.Clone(good), 99, protowire.BytesType)
	unknown = protowire.AppendBytes(unknown, []byte("from a later version"))
	deep := []byte{}
	for range 20_000 { // a txn in a txn in a txn …
		op := protowire.AppendBytes(protowire.AppendTag(nil, 4, protowire.BytesType), deep)
		deep = protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), op)
		if len(deep) > 1<<20 {
			break
		}
	}
	for _, c := range []struct {
		name, method string
		body         []byte
		or           codes.Code // as good as etcd's
	}{
		{"cut off", "/etcdserverpb.KV/Put", good[:len(good)-1], codes.OK},
		{"a length beyond the end", "/etcdserverpb.KV/Put", []byte{0x0a, 0xff, 0xff, 0xff, 0x7f}, codes.OK},
		{"field number 0", "/etcdserverpb.KV/Range", []byte{0x02, 0x00}, codes.OK},
		{"wrong wire type for key", "/etcdserverpb.KV/Range", []byte{0x08, 0x01}, codes.OK},
		{"an endless varint", "/etcdserverpb.KV/Range", bytes.Repeat([]byte{0xff}, 20), codes.OK},
		{"a group without end", "/etcdserverpb.KV/Range", []byte{0x9b, 0x06}, codes.OK},
		{"noise", "/etcdserverpb.KV/Txn", []byte("this is no protobuf message at all"), codes.OK},
		{"transactions nested without end", "/etcdserverpb.KV/Txn", deep, codes.OK},
		{"unknown field", "/etcdserverpb.KV/Put", unknown, codes.OK},
		{"no body", "/etcdserverpb.KV/Put", nil, codes.OK},
		{"unknown method", "/etcdserverpb.KV/Frobnicate", good, codes.OK},
		{"unknown service", "/etcdserverpb.Nothing/Put", good, codes.OK},
	} {
		call := func(s *side) outcome {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			var reply []byte
			if err := s.conn.Invoke(ctx, c.method, c.body, &reply, grpc.ForceCodec(raw{})); err != nil {
				return failed(err)
			}
			return outcome{}
		}
		etcd, ours := call(&p.etcd), call(&p.ours)
		t.Logf("%s: etcd %v %q, quorate %v %q", c.name, etcd.code, etcd.message, ours.code, ours.message)
		if etcd.code != ours.code && (c.or == codes.OK || ours.code != c.or) {
			t.Errorf("%s: etcd says %v %q, quorate %v %q", c.name, etcd.code, etcd.message, ours.code, ours.message)
		}
		p.same("after "+c.name, &pb.PutRequest{Key: []byte("alive")})
	}
}

// TestDeletedUnderIgnoreValue is about transactions that etcd 3.7.3 accepts and then dies of, again after
// each restart: a delete up to the end of the keyspace, which the check for overlaps does not see, takes the
// key away that a later put in the same transaction wants the value or the lease of. The server under test
// may refuse them or apply them, but it lives, and says the same after a restart.
func TestDeletedUnderIgnoreValue(t *testing.T) {
	if quorateBin(t) == etcdBin(t) {
		t.Skip("the server under test is etcd, which does not survive this")
	}
	s := startSide(t, "quorate", quorateBin(t), 1)
	call := func(req any) outcome { return s.call(testContext(t, 10*time.Second), req) }
	key := []byte("k")
	toTheEnd := func() *pb.RequestOp { return opDelete(&pb.DeleteRangeRequest{Key: []byte("j"), RangeEnd: []byte{0}}) }
	for name, txn := range map[string]*pb.TxnRequest{
		"ignore_value":         then(toTheEnd(), opPut(&pb.PutRequest{Key: key, IgnoreValue: true})),
		"ignore_lease":         then(toTheEnd(), opPut(&pb.PutRequest{Key: key, Value: key, IgnoreLease: true})),
		"ignore_value, nested": then(toTheEnd(), opTxn(then(opPut(&pb.PutRequest{Key: key, IgnoreValue: true, PrevKv: true})))),
	} {
		if o := call(&pb.PutRequest{Key: key, Value: []byte("before")}); o.code != codes.OK {
			t.Fatalf("%s: put: %v", name, o)
		}
		o := call(txn)
		t.Logf("%s: %v", name, o)
		after := call(&pb.RangeRequest{Key: key})
		if after.code != codes.OK {
			t.Fatalf("%s: read: %v", name, after)
		}
		if kvs := after.resp.(*pb.RangeResponse).Kvs; o.code != codes.OK && (len(kvs) != 1 || string(kvs[0].Value) != "before") {
			t.Errorf("%s: refused, but it had an effect: %v", name, after)
		}
		m := s.members[0]
		m.kill()
		m.awaitReady(m.start())
		if again := call(&pb.RangeRequest{Key: key}); again.code != codes.OK || !proto.Equal(after.resp, again.resp) {
			t.Errorf("%s: before the restart %v, after it %v", name, after, again)
		}
	}
}

// TestSameWithoutQuorum asks the only one of three members that is left.
func TestSameWithoutQuorum(t *testing.T) {
	t.Parallel() // it waits, mostly
	p := startPair(t, 3)
	p.same("before", &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	for _, s := range []*side{&p.etcd, &p.ours} {
		// The member that stays must have applied the put: a linearizable read there sees to that.
		s.connect(0)
		if o := s.call(testContext(t, 20*time.Second), &pb.RangeRequest{Key: []byte("a")}); o.code != codes.OK {
			t.Fatalf("%s: %v", s.name, o)
		}
		s.members[1].kill()
		s.members[2].kill()
	}
	// Until the member that stayed has noticed that it is alone.
	time.Sleep(4 * time.Second)

	p.same("serializable read", &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	p.same("serializable stream", stream{&pb.RangeRequest{Key: []byte("a"), Serializable: true}})
	p.same("serializable read-only txn", then(opRange(&pb.RangeRequest{Key: []byte("a"), Serializable: true})))
	p.same("empty txn", &pb.TxnRequest{})
	p.same("hash", &pb.HashKVRequest{})

	requests := map[string]any{
		"put":                   &pb.PutRequest{Key: []byte("b")},
		"delete":                &pb.DeleteRangeRequest{Key: []byte("b")},
		"txn":                   then(puts("b")...),
		"compact":               &pb.CompactionRequest{Revision: 2},
		"linearizable read":     &pb.RangeRequest{Key: []byte("a")},
		"linearizable stream":   stream{&pb.RangeRequest{Key: []byte("a")}},
		"linearizable read txn": then(opRange(&pb.RangeRequest{Key: []byte("a")})),
		"put, too large":        &pb.PutRequest{Key: []byte("b"), Value: make([]byte, 2_000_000)},
		"put, no key":           &pb.PutRequest{},
	}
	// With the client's word that it wants a leader: at once.
	for name, req := range requests {
		ctx := metadata.AppendToOutgoingContext(testContext(t, 20*time.Second), "hasleader", "true")
		began := time.Now()
		etcd, ours := p.bothIn(ctx, req)
		p.judge(name+" with hasleader", req, etcd, ours)
		if etcd.code != codes.Unavailable || etcd.message != "etcdserver: no leader" || time.Since(began) > 3*time.Second {
			t.Errorf("%s with hasleader: etcd itself says %v after %v", name, etcd, time.Since(began))
		}
	}
	// Without: after the server's own seven seconds, or when the client's time is up.
	var wait sync.WaitGroup
	var mu sync.Mutex
	for name, req := range requests {
		for _, limit := range []time.Duration{2 * time.Second, 20 * time.Second} {
			wait.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), limit)
				defer cancel()
				var etcd, ours outcome
				var etcdTook, oursTook time.Duration
				var both sync.WaitGroup
				began := time.Now()
				both.Go(func() { etcd = p.etcd.call(ctx, req); etcdTook = time.Since(began) })
				both.Go(func() { ours = p.ours.call(ctx, req); oursTook = time.Since(began) })
				both.Wait()
				mu.Lock()
				defer mu.Unlock()
				what := fmt.Sprintf("%s within %v", name, limit)
				if etcd.code == codes.DeadlineExceeded && ours.code == codes.DeadlineExceeded {
					// Who notices first, client or server, is chance, and so is the text.
				} else {
					p.judge(what, req, etcd, ours)
				}
				t.Logf("%s: etcd says %v %q after %v, quorate %v %q after %v", what,
					etcd.code, etcd.message, etcdTook.Round(10*time.Millisecond), ours.code, ours.message, oursTook.Round(10*time.Millisecond))
				// A read that comes while a round of reads waits is in the next round: one or two of the
				// seven seconds, by chance.
				tolerance := 2 * time.Second
				if strings.HasPrefix(name, "linearizable") {
					tolerance = 8 * time.Second
				}
				if d := (etcdTook - oursTook).Abs(); d > tolerance {
					t.Errorf("%s: etcd answers after %v, quorate after %v", what, etcdTook, oursTook)
				}
			})
		}
	}
	wait.Wait()
}
