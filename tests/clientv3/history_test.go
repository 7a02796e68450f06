package clientv3_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// The keys of a history: few, so that they meet; binary, and prefixes of each other, so that the order
// and the escaping of keys matter. At most twelve: etcd sorts up to twelve rows stably, more it may not,
// and rows that tie would come in any order.
var historyKeys = []string{"\x00", "a", "a\x00", "a\x00b", "a\xff", "ab", "b", "b\x00\xff", "c", "\xff", "\xff\xff"}

// history makes the requests of one random history from one seed.
type history struct {
	*rand.Rand
	p      *pair
	leases []int64
}

func (h *history) chance(percent int) bool { return h.IntN(100) < percent }

func (h *history) key() []byte { return []byte(historyKeys[h.IntN(len(historyKeys))]) }

// span returns a key and the end of a range: a single key, two keys in any order, all from a key on,
// everything, or an end that makes the range empty.
func (h *history) span() (key, end []byte) {
	switch h.IntN(8) {
	case 0, 1, 2:
		return h.key(), nil
	case 3:
		return h.key(), []byte{0}
	case 4:
		return []byte{0}, []byte{0}
	case 5:
		k := h.key()
		return k, append(append([]byte{}, k...), 0)
	default:
		return h.key(), h.key()
	}
}

func (h *history) value() []byte {
	switch h.IntN(20) {
	case 0:
		return nil
	case 1:
		return make([]byte, 3000)
	default:
		return fmt.Appendf(nil, "v%d", h.IntN(6))
	}
}

// anyRevision is mostly one that can be read, at times one that cannot.
func (h *history) anyRevision() int64 {
	switch h.IntN(10) {
	case 0:
		return h.p.revision + 1 + h.Int64N(3)
	case 1:
		return h.p.compacted - h.Int64N(3)
	case 2:
		return h.p.compacted
	default:
		return h.p.compacted + h.Int64N(max(h.p.revision-h.p.compacted, 1)+1)
	}
}

func (h *history) lease() int64 {
	switch {
	case len(h.leases) > 0 && h.chance(30):
		return h.leases[h.IntN(len(h.leases))]
	case h.chance(2):
		return 999 // never granted
	}
	return 0
}

func (h *history) put(key []byte) *pb.PutRequest {
	r := &pb.PutRequest{Key: key, Value: h.value(), PrevKv: h.chance(30), Lease: h.lease()}
	if h.chance(8) {
		r.IgnoreValue = true
		if h.chance(90) {
			r.Value = nil
		}
	}
	if h.chance(8) {
		r.IgnoreLease = true
		if h.chance(90) {
			r.Lease = 0
		}
	}
	return r
}

func (h *history) delete() *pb.DeleteRangeRequest {
	key, end := h.span()
	if h.chance(60) {
		end = nil
	}
	return &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: h.chance(40)}
}

func (h *history) read() *pb.RangeRequest {
	key, end := h.span()
	r := &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: h.chance(20)}
	if h.chance(40) {
		r.Revision = h.anyRevision()
	}
	if h.chance(30) {
		r.Limit = h.Int64N(6)
	}
	if h.chance(40) {
		r.SortOrder = pb.RangeRequest_SortOrder(h.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(h.IntN(5))
	}
	r.KeysOnly, r.CountOnly = h.chance(15), h.chance(10)
	for _, bound := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
		if h.chance(8) {
			*bound = h.anyRevision()
		}
	}
	return r
}

func (h *history) compare() *pb.Compare {
	c := &pb.Compare{
		Result: pb.Compare_CompareResult(h.IntN(4)),
		Target: pb.Compare_CompareTarget(h.IntN(5)),
	}
	c.Key, c.RangeEnd = h.span()
	if h.chance(60) {
		c.RangeEnd = nil
	}
	target := c.Target
	if h.chance(5) {
		target = pb.Compare_CompareTarget(h.IntN(5)) // the operand of another target: reads as zero
	}
	switch target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: h.Int64N(4)}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: h.anyRevision()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: h.anyRevision()}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: h.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: h.lease()}
	}
	return c
}

// harmless makes a transaction one that does not kill etcd 3.7.3: where a delete takes the key of a put
// with ignore_value or ignore_lease away within the transaction, etcd panics at apply
// (TestDeletedUnderIgnoreValue has the server under test survive that).
func harmless(txn *pb.TxnRequest) *pb.TxnRequest {
	var deletes bool
	var ignoring []*pb.PutRequest
	var walk func(*pb.TxnRequest)
	walk = func(txn *pb.TxnRequest) {
		for _, op := range slices.Concat(txn.Success, txn.Failure) {
			if op.GetRequestDeleteRange() != nil {
				deletes = true
			} else if put := op.GetRequestPut(); put != nil {
				ignoring = append(ignoring, put)
			} else if nested := op.GetRequestTxn(); nested != nil {
				walk(nested)
			}
		}
	}
	walk(txn)
	if deletes {
		for _, put := range ignoring {
			put.IgnoreValue, put.IgnoreLease = false, false
		}
	}
	return txn
}

// txn makes a transaction of up to three levels. Most put a key once only, so that most are accepted.
func (h *history) txn(depth int, used map[string]bool) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range h.IntN(3) {
		r.Compare = append(r.Compare, h.compare())
	}
	for _, ops := range []*[]*pb.RequestOp{&r.Success, &r.Failure} {
		for range h.IntN(4) {
			*ops = append(*ops, h.op(depth, used))
		}
	}
	return r
}

func (h *history) op(depth int, used map[string]bool) *pb.RequestOp {
	switch n := h.IntN(100); {
	case n < 50:
		key := h.key()
		for tries := 0; used[string(key)] && tries < 8 && !h.chance(5); tries++ {
			key = h.key()
		}
		used[string(key)] = true
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: h.put(key)}}
	case n < 65:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: h.delete()}}
	case n < 85 || depth >= 2:
		read := h.read()
		if h.chance(85) {
			read.Revision = 0 // one unreadable revision refuses the whole transaction
		}
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: read}}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: h.txn(depth+1, used)}}
	}
}

// putAndDelete puts and deletes one key in one transaction. etcd refuses that side by side, but not
// when a nested transaction puts and a later one deletes, nor when a put meets a range that is open at
// the end and so hides the overlap: one revision then has both, in sub-revisions.
func (h *history) putAndDelete() *pb.TxnRequest {
	key := h.key()
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: h.value(), PrevKv: h.chance(50)}}}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, PrevKv: h.chance(50)}}}
	nested := func(op *pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{op}}}}
	}
	switch h.IntN(4) {
	case 0:
		return &pb.TxnRequest{Success: []*pb.RequestOp{put, del}} // refused
	case 1:
		return &pb.TxnRequest{Success: []*pb.RequestOp{nested(del), nested(put)}} // refused
	case 2:
		del.GetRequestDeleteRange().RangeEnd = []byte{0}
		return &pb.TxnRequest{Success: []*pb.RequestOp{put, del}}
	default:
		return &pb.TxnRequest{Success: []*pb.RequestOp{nested(put), nested(del)}}
	}
}

// TestSameHistory runs random histories against etcd and the server under test. Every answer must be the
// same, and so must HashKV at many revisions, while the history runs, after it, and after a restart.
func TestSameHistory(t *testing.T) {
	t.Parallel()
	ops := envInt(t, "QUORATE_HISTORY_OPS", 1200)
	seeds := envInt(t, "QUORATE_HISTORIES", 2)
	for seed := 1; seed <= seeds; seed++ {
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) {
			p := startPair(t, 1)
			h := &history{Rand: rand.New(rand.NewPCG(uint64(seed), 0)), p: p}
			for id := int64(7_000_001); id < 7_000_006; id++ {
				p.same("grant", &pb.LeaseGrantRequest{ID: id, TTL: 100_000})
				h.leases = append(h.leases, id)
			}
			refused, compactions, kinds := 0, 0, map[string]int{}
			for i := range ops {
				var o outcome
				what := fmt.Sprintf("seed %d, step %d", seed, i)
				switch n := h.IntN(100); {
				case n < 40:
					o = p.same(what, h.put(h.key()))
				case n < 52:
					o = p.same(what, h.delete())
				case n < 74:
					o = p.same(what, harmless(h.txn(0, map[string]bool{})))
				case n < 78:
					o = p.same(what, h.putAndDelete())
				case n < 90:
					o = p.same(what, h.read())
				case n < 94:
					read := h.read()
					if read.SortOrder == pb.RangeRequest_NONE {
						read.SortTarget = pb.RangeRequest_KEY // see TestSameRanges
					}
					o = p.same(what, stream{read})
				case n < 96 && h.chance(60):
					rev := h.anyRevision()
					if h.chance(70) && p.revision > p.compacted { // mostly not far, so that history is left
						rev = p.compacted + h.Int64N(min(p.revision-p.compacted, 40)+1)
					}
					o = p.same(what, &pb.CompactionRequest{Revision: rev, Physical: h.chance(70)})
					if o.code == codes.OK {
						p.compacted = max(p.compacted, rev)
						compactions++
						p.settle(rev)
						p.sameHashes(what, 0, p.compacted, p.compacted-1)
					}
				case n < 97 && len(h.leases) > 2 && h.chance(10):
					o = p.same(what, &pb.LeaseRevokeRequest{ID: h.leases[0]})
					h.leases = h.leases[1:]
				default:
					p.sameHashes(what, 0, h.anyRevision())
				}
				if o.code != codes.OK {
					refused++
					kinds[o.message]++
				}
				if i == ops/3 {
					p.restart(seed%2 == 0)
					p.sameHashes(what+", restarted", 0, p.compacted, p.revision)
				}
			}
			p.sameEverything("at the end")
			p.restart(seed%2 == 1)
			p.sameEverything("after a restart")
			t.Logf("seed %d: %d requests, revision %d, %d compactions up to %d, %d refused: %v",
				seed, p.requests, p.revision, compactions, p.compacted, refused, kinds)
		})
	}
}
