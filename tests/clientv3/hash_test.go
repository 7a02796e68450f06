package clientv3_test

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestSameHashOfDeletedAndPut deletes all keys and puts one of them again in one transaction: for its hash at
// that revision etcd takes the key for gone, and hashes all that its compaction has left.
func TestSameHashOfDeletedAndPut(t *testing.T) {
	p := startPair(t, 1)
	put := func(key string) *pb.PutRequest { return &pb.PutRequest{Key: []byte(key)} }
	all := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	for _, req := range []any{put("a"), put("a"), put("b"), &pb.CompactionRequest{Revision: 3, Physical: true}} {
		p.same("before", req)
	}
	p.settle(3)
	nested := func(op *pb.RequestOp) *pb.RequestOp { return opTxn(then(op)) }
	p.same("deleted and put", then(opDelete(all), nested(opPut(put("a")))))
	p.sameHashes("after it", 0, 3, 4, 5)
	p.same("on", put("a"))
	p.sameHashes("later", 0, 3, 4, 5, 6)
	p.restart(false)
	p.sameHashes("after a restart", 0, 3, 4, 5, 6)
}
