package clientv3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// side is one of the two servers that get the same requests.
type side struct {
	*cluster
	name string
	conn *grpc.ClientConn
	// metrics is the address of a port for metrics, where there is one.
	metrics string
	// added is the ID of the member that was added last.
	added uint64
}

// pair is stock etcd and the server under test, both fresh, both with one member (or more). Every request
// goes to both, on raw gRPC stubs, and the answers must be the same: code, message, and every field but
// the identities in the headers.
type pair struct {
	t    *testing.T
	etcd side
	ours side
	// What the next requests may be built from: the revision and the compacted revision.
	revision, compacted int64
	requests            int
	failures            int
}

const maxFailures = 20

func startPair(t *testing.T, members int, flags ...string) *pair {
	t.Helper()
	p := &pair{t: t, revision: 1}
	p.etcd = startSide(t, "etcd", etcdBin(t), members, flags...)
	p.ours = startSide(t, "quorate", quorateBin(t), members, flags...)
	return p
}

func startSide(t *testing.T, name, bin string, members int, flags ...string) side {
	t.Helper()
	s := side{cluster: startCluster(t, bin, members, flags...), name: name}
	s.connect(0)
	return s
}

// connect turns the side's requests to its i-th member.
func (s *side) connect(i int) {
	conn, err := grpc.NewClient(s.members[i].endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30), grpc.WaitForReady(true)))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.conn != nil {
		s.conn.Close()
	}
	s.conn = conn
	s.t.Cleanup(func() { conn.Close() })
}

// outcome is what a client sees of one request.
type outcome struct {
	code    codes.Code
	message string
	resp    proto.Message
}

func (o outcome) String() string {
	if o.code != codes.OK {
		return fmt.Sprintf("%v %q", o.code, o.message)
	}
	return shorten(prototext.Format(o.resp))
}

func shorten(s string) string {
	if len(s) > 1500 {
		return fmt.Sprintf("%s … (%d bytes)", s[:1500], len(s))
	}
	return s
}

func failed(err error) outcome {
	s := status.Convert(err)
	return outcome{code: s.Code(), message: s.Message()}
}

// stream asks for RangeStream instead of Range.
type stream struct{ *pb.RangeRequest }

// call sends one request to one server.
func (s *side) call(ctx context.Context, req any) outcome {
	kv, maintenance, lease := pb.NewKVClient(s.conn), pb.NewMaintenanceClient(s.conn), pb.NewLeaseClient(s.conn)
	var resp proto.Message
	var err error
	switch r := req.(type) {
	case *pb.RangeRequest:
		resp, err = kv.Range(ctx, r)
	case *pb.PutRequest:
		resp, err = kv.Put(ctx, r)
	case *pb.DeleteRangeRequest:
		resp, err = kv.DeleteRange(ctx, r)
	case *pb.TxnRequest:
		resp, err = kv.Txn(ctx, r)
	case *pb.CompactionRequest:
		resp, err = kv.Compact(ctx, r)
	case *pb.HashKVRequest:
		resp, err = maintenance.HashKV(ctx, r)
	case *pb.LeaseGrantRequest:
		resp, err = lease.LeaseGrant(ctx, r)
	case *pb.LeaseRevokeRequest:
		resp, err = lease.LeaseRevoke(ctx, r)
	case *pb.LeaseTimeToLiveRequest:
		resp, err = lease.LeaseTimeToLive(ctx, r)
	case *pb.LeaseLeasesRequest:
		resp, err = lease.LeaseLeases(ctx, r)
	case stream:
		resp, err = s.rangeStream(ctx, r.RangeRequest)
	default:
		s.t.Fatalf("no call for %T", req)
	}
	if err != nil {
		return failed(err)
	}
	scrub(resp.ProtoReflect())
	return outcome{resp: resp}
}

var errShape = errors.New("RangeStream breaks its own rules")

// rangeStream collects the chunks into one response and checks what the contract says of each: header,
// more and count come with the last chunk only, and only a reply without rows has an empty chunk.
func (s *side) rangeStream(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	client, err := pb.NewKVClient(s.conn).RangeStream(ctx, r)
	if err != nil {
		return nil, err
	}
	merged := &pb.RangeResponse{}
	ended := false
	for chunks := 0; ; chunks++ {
		chunk, err := client.Recv()
		if errors.Is(err, io.EOF) {
			if !ended {
				return nil, fmt.Errorf("%w: it ended without a header", errShape)
			}
			return merged, nil
		}
		if err != nil {
			return nil, err
		}
		part := chunk.GetRangeResponse()
		if ended {
			return nil, fmt.Errorf("%w: a chunk after the one with the header", errShape)
		}
		ended = part.GetHeader() != nil
		if !ended && (part.GetMore() || part.GetCount() != 0 || len(part.GetKvs()) == 0) {
			return nil, fmt.Errorf("%w: chunk %d has no header but more, count or no rows: %v", errShape, chunks, part)
		}
		proto.Merge(merged, part)
	}
}

// scrub removes what must differ between two clusters: the identities and the term of every header.
func scrub(m protoreflect.Message) {
	if h, ok := m.Interface().(*pb.ResponseHeader); ok {
		h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				scrub(v.List().Get(i).Message())
			}
		default:
			scrub(v.Message())
		}
		return true
	})
}

// both sends one request to both servers and returns both answers, unjudged.
func (p *pair) both(req any) (etcd, ours outcome) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return p.bothIn(ctx, req)
}

func (p *pair) bothIn(ctx context.Context, req any) (etcd, ours outcome) {
	var wait sync.WaitGroup
	wait.Go(func() { etcd = p.etcd.call(ctx, req) })
	wait.Go(func() { ours = p.ours.call(ctx, req) })
	wait.Wait()
	p.requests++
	for _, s := range []*side{&p.etcd, &p.ours} {
		for _, m := range s.members {
			if m.crashed() {
				p.t.Fatalf("%s %s ended by itself at request %d: %s", s.name, m.name, p.requests, describe(req))
			}
		}
	}
	return etcd, ours
}

// same sends a request to both and fails the test where the answers differ. It returns etcd's.
func (p *pair) same(what string, req any) outcome {
	p.t.Helper()
	etcd, ours := p.both(req)
	p.judge(what, req, etcd, ours)
	p.note(etcd)
	return etcd
}

func (p *pair) judge(what string, req any, etcd, ours outcome) {
	p.t.Helper()
	if etcd.code == codes.DeadlineExceeded && ours.code == codes.DeadlineExceeded {
		return // who notices first, client or server, is chance, and so is the text
	}
	if etcd.code == ours.code && etcd.message == ours.message &&
		(etcd.code != codes.OK || proto.Equal(etcd.resp, ours.resp)) {
		return
	}
	p.differ(what, req, etcd, ours)
}

func (p *pair) differ(what string, req any, etcd, ours any) {
	p.t.Helper()
	p.t.Errorf("%s (request %d): %s\netcd:    %v\nquorate: %v", what, p.requests, describe(req), etcd, ours)
	if p.failures++; p.failures >= maxFailures {
		p.t.Fatalf("%d differences; the rest is not looked at", p.failures)
	}
}

func describe(req any) string {
	if s, ok := req.(stream); ok {
		return "RangeStream " + shorten(prototext.Format(s.RangeRequest))
	}
	if _, ok := req.(proto.Message); !ok {
		return ""
	}
	return fmt.Sprintf("%T %s", req, shorten(prototext.Format(req.(proto.Message))))
}

// note keeps the current revision, from any answer with a header that shows it.
func (p *pair) note(o outcome) {
	if h, ok := o.resp.(interface{ GetHeader() *pb.ResponseHeader }); ok && o.code == codes.OK {
		p.revision = max(p.revision, h.GetHeader().GetRevision())
	}
}

// sameHashes compares HashKV at the given revisions (0 = current).
func (p *pair) sameHashes(what string, revisions ...int64) {
	p.t.Helper()
	for _, rev := range revisions {
		p.same(fmt.Sprintf("%s: HashKV(%d)", what, rev), &pb.HashKVRequest{Revision: rev})
	}
}

// settle waits until etcd has finished the compaction at rev. Until then HashKV(rev) is computed with
// rev as the compacted revision; from then on it is answered from the ten newest hashes that compactions
// leave behind, which are made with the compacted revision before. The server under test has the same
// time; if it still answers otherwise then, the comparison that follows says so.
func (p *pair) settle(rev int64) {
	p.t.Helper()
	finished := func(o outcome) bool {
		h, ok := o.resp.(*pb.HashKVResponse)
		return o.code == codes.OK && ok && h.CompactRevision < rev
	}
	for range 200 {
		etcd, ours := p.both(&pb.HashKVRequest{Revision: rev})
		if finished(etcd) && finished(ours) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// sameEverything compares the whole store: all keys now, and HashKV at every revision that is left (the
// last 300 where there are more).
func (p *pair) sameEverything(what string) {
	p.t.Helper()
	p.same(what, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	from := max(p.compacted-1, p.revision-300, 0)
	for rev := from; rev <= p.revision+1; rev++ {
		p.sameHashes(what, rev)
	}
}

// resync brings both servers to the same revision after an answer that differed, so that one difference
// does not show as many. Their contents may differ from here on.
func (p *pair) resync() {
	p.t.Helper()
	for range 50 {
		etcd, ours := p.both(&pb.RangeRequest{Key: []byte("resync")})
		if etcd.code != codes.OK || ours.code != codes.OK {
			return
		}
		behind := &p.etcd
		switch d := etcd.resp.(*pb.RangeResponse).Header.Revision - ours.resp.(*pb.RangeResponse).Header.Revision; {
		case d == 0:
			return
		case d > 0:
			behind = &p.ours
		}
		behind.call(testContext(p.t, 10*time.Second), &pb.PutRequest{Key: []byte("resync")})
	}
}

// restart ends both servers, by SIGKILL or SIGTERM, and starts them again on their data.
func (p *pair) restart(kill bool) {
	p.t.Helper()
	for _, s := range []*side{&p.etcd, &p.ours} {
		for _, m := range s.members {
			if kill {
				m.kill()
			} else {
				m.stop()
			}
		}
		var readies []<-chan error
		for _, m := range s.members {
			readies = append(readies, m.start())
		}
		for i, m := range s.members {
			m.awaitReady(readies[i])
		}
	}
}
