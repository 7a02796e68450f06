// walcheck reads and writes WAL directories with etcd's own code (go.etcd.io/etcd/server/v3/storage/wal),
// so that the tests of crates/wal can compare: what etcd writes quorate must read alike, and what
// quorate writes etcd must read alike.
//
//	walcheck read DIR [INDEX TERM]     print what etcd's readers make of DIR, from the snapshot record
//	                                   INDEX/TERM on (0/0 when not given); changes nothing
//	walcheck write DIR [N]             write a new WAL of N (default 600) normal entries and more to DIR,
//	                                   then print the same as read
//	walcheck append DIR [N]            open DIR for writing, as a restarted etcd does, append N
//	                                   (default 10) entries, then print the same as read
//
// The output of read, one record a line, is the same for the same content whoever wrote it:
//
//	file NAME SIZE                     segments in order
//	metadata HEX                       the metadata record
//	snapshot INDEX TERM VOTERS LEARNERS    snapshot records at or below the committed index, in order;
//	                                   member IDs as hex, comma-separated, "-" for none
//	hardstate TERM VOTE COMMIT         the last one; VOTE in hex
//	entry INDEX TERM TYPE LEN SHA256   raft entries that survive (overwritten ones are gone);
//	                                   TYPE is 0 normal, 1 conf change, 2 conf change v2;
//	                                   LEN and SHA256 are of the data
//	entries N
//
// Four readers of etcd must agree before it is printed: the server's ReadAll, the verifier of
// snapshot and hard state (wal.Verify), the scan for usable snapshots, and the raw decoder loop that
// etcd's robustness tests use. An error is one line on stderr and exit code 1.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
)

func main() {
	flag.Int64Var(&wal.SegmentSizeBytes, "segment-bytes", wal.SegmentSizeBytes, "size of a segment, for write and append")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: walcheck [-segment-bytes N] read DIR [INDEX TERM] | write DIR [N] | append DIR [N]")
		os.Exit(2)
	}
	flag.Parse()
	args := flag.Args()
	if len(args) < 2 {
		flag.Usage()
	}
	var nums []uint64
	for _, s := range args[2:] {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			flag.Usage()
		}
		nums = append(nums, n)
	}
	dir := args[1]
	var err error
	switch {
	case args[0] == "read" && len(nums) == 0:
		err = read(os.Stdout, dir, 0, 0)
	case args[0] == "read" && len(nums) == 2:
		err = read(os.Stdout, dir, nums[0], nums[1])
	case args[0] == "write" && len(nums) <= 1:
		if err = write(dir, first(nums, 600)); err == nil {
			err = read(os.Stdout, dir, 0, 0)
		}
	case args[0] == "append" && len(nums) <= 1:
		if err = appendTo(dir, first(nums, 10)); err == nil {
			err = read(os.Stdout, dir, 0, 0)
		}
	default:
		flag.Usage()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "walcheck: %v\n", err)
		os.Exit(1)
	}
}

func first(nums []uint64, otherwise uint64) uint64 {
	if len(nums) > 0 {
		return nums[0]
	}
	return otherwise
}

// recovered turns a panic of etcd's reader (MustUnmarshal and the like) into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("etcd's reader panicked: %v", p)
	}
}

func read(out io.Writer, dir string, index, term uint64) (err error) {
	defer recovered(&err)
	lg := zap.NewNop()
	start := &walpb.Snapshot{Index: new(index), Term: new(term)}

	w, err := wal.OpenForRead(lg, dir, start)
	if err != nil {
		return fmt.Errorf("OpenForRead: %w", err)
	}
	metadata, state, ents, err := w.ReadAll()
	w.Close()
	if err != nil {
		return fmt.Errorf("ReadAll: %w", err)
	}

	rawState, rawEnts, err := readRaw(dir)
	if err != nil {
		return fmt.Errorf("decoder loop: %w", err)
	}
	rawEnts = slices.DeleteFunc(rawEnts, func(e *raftpb.Entry) bool { return e.GetIndex() <= index })
	if !proto.Equal(state, rawState) {
		return fmt.Errorf("ReadAll gives hard state {%v}, the decoder loop {%v}", state, rawState)
	}
	if len(ents) != len(rawEnts) {
		return fmt.Errorf("ReadAll gives %d entries, the decoder loop %d", len(ents), len(rawEnts))
	}
	for i := range ents {
		if !proto.Equal(ents[i], rawEnts[i]) {
			return fmt.Errorf("entry %d differs between ReadAll and the decoder loop", ents[i].GetIndex())
		}
	}

	verified, err := wal.Verify(lg, dir, start)
	if err != nil {
		return fmt.Errorf("Verify: %w", err)
	}
	if !proto.Equal(state, verified) {
		return fmt.Errorf("ReadAll gives hard state {%v}, Verify {%v}", state, verified)
	}

	snaps, err := wal.ValidSnapshotEntries(lg, dir)
	if err != nil {
		return fmt.Errorf("ValidSnapshotEntries: %w", err)
	}

	names, err := fileutil.ReadDir(dir)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for _, name := range names {
		if !strings.HasSuffix(name, ".wal") {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "file %s %d\n", name, info.Size())
	}
	fmt.Fprintf(&b, "metadata %x\n", metadata)
	for _, s := range snaps {
		fmt.Fprintf(&b, "snapshot %d %d %s %s\n", s.GetIndex(), s.GetTerm(),
			ids(s.GetConfState().GetVoters()), ids(s.GetConfState().GetLearners()))
	}
	fmt.Fprintf(&b, "hardstate %d %x %d\n", state.GetTerm(), state.GetVote(), state.GetCommit())
	for _, e := range ents {
		fmt.Fprintf(&b, "entry %d %d %d %d %x\n", e.GetIndex(), e.GetTerm(), int32(e.GetType()), len(e.GetData()), sha256.Sum256(e.GetData()))
	}
	fmt.Fprintf(&b, "entries %d\n", len(ents))
	_, err = b.WriteTo(out)
	return err
}

func ids(list []uint64) string {
	if len(list) == 0 {
		return "-"
	}
	parts := make([]string, len(list))
	for i, id := range list {
		parts[i] = strconv.FormatUint(id, 16)
	}
	return strings.Join(parts, ",")
}

// readRaw reads every segment by etcd's record decoder, as the robustness tests' ReadAllWALEntries
// does: without the log's own idea of where to start, so from the first record of the first segment.
func readRaw(dir string) (*raftpb.HardState, []*raftpb.Entry, error) {
	names, err := fileutil.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	var files []fileutil.FileReader
	for _, name := range names {
		if !strings.HasSuffix(name, ".wal") {
			continue
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, err
		}
		defer f.Close()
		files = append(files, fileutil.NewFileReader(f))
	}
	state := &raftpb.HardState{}
	var ents []*raftpb.Entry
	decoder := wal.NewDecoder(files...)
	for {
		rec := &walpb.Record{}
		if err := decoder.Decode(rec); err != nil {
			if errors.Is(err, io.EOF) {
				return state, ents, nil
			}
			return nil, nil, err
		}
		switch rec.GetType() {
		case wal.EntryType:
			e := wal.MustUnmarshalEntry(rec.Data)
			i := len(ents)
			for i > 0 && ents[i-1].GetIndex() >= e.GetIndex() {
				i--
			}
			ents = append(ents[:i], e)
		case wal.StateType:
			state = wal.MustUnmarshalState(rec.Data)
		case wal.CrcType:
			if crc := decoder.LastCRC(); crc != 0 && rec.Validate(crc) != nil {
				return nil, nil, wal.ErrCRCMismatch
			}
			decoder.UpdateCRC(rec.GetCrc())
		case wal.MetadataType, wal.SnapshotType:
		default:
			return nil, nil, fmt.Errorf("unexpected record type %d", rec.GetType())
		}
	}
}

// The three members whose log write makes.
var members = []uint64{0x29be1ae5193b2e64, 0x8e9e05c52164694d, 0xfd422379fda50e48}

const cluster = 0x6278290d73948ddc

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// put is the payload of a normal entry: a Put of a value of pseudo-random bytes.
func put(index uint64, size int) []byte {
	r := rand.NewChaCha8(sha256.Sum256([]byte(strconv.FormatUint(index, 10))))
	value := make([]byte, size)
	r.Read(value)
	return marshal(&etcdserverpb.InternalRaftRequest{
		Header: &etcdserverpb.RequestHeader{ID: members[0]<<48 | index},
		Put:    &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "key-%06d", index%97), Value: value},
	})
}

// size of the value of entry `index`: mostly small, odd lengths included (frames are padded to 8
// bytes, so every remainder must occur), at times large; 600 entries make more than one segment.
func size(index uint64) int {
	switch {
	case index%10 == 3:
		return 1<<20 + int(index%13)
	case index%10 == 7:
		return 100_000 + int(index)
	default:
		return int(index * 37 % 5003)
	}
}

func write(dir string, n uint64) (err error) {
	w, err := wal.Create(zap.NewNop(), dir, marshal(&etcdserverpb.Metadata{NodeID: new(members[0]), ClusterID: new(uint64(cluster))}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	save := func(st *raftpb.HardState, ents ...*raftpb.Entry) {
		if err == nil {
			err = w.Save(st, ents)
		}
	}

	// The bootstrap entries.
	var boot []*raftpb.Entry
	for i, id := range members {
		context := fmt.Appendf(nil, `{"id":%d,"peerURLs":["http://127.0.0.1:%d"],"name":"m%d"}`, id, 2380+100*i, i)
		boot = append(boot, &raftpb.Entry{
			Type: raftpb.EntryConfChange.Enum(), Term: new(uint64(1)), Index: new(uint64(i + 1)),
			Data: marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(id), Context: context}),
		})
	}
	save(hardState(1, 0, 3), boot...)
	save(hardState(2, members[1], 3))
	// An election's no-op: no data, no type.
	save(hardState(2, members[1], 4), &raftpb.Entry{Term: new(uint64(2)), Index: new(uint64(4))})
	for i, id := range members {
		index := uint64(5 + i)
		save(nil, normal(2, index, marshal(&etcdserverpb.InternalRaftRequest{
			Header: &etcdserverpb.RequestHeader{ID: id<<48 | index},
			ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
				Member_ID: id,
				MemberAttributes: &membershippb.Attributes{
					Name: fmt.Sprintf("m%d", i), ClientUrls: []string{fmt.Sprintf("http://127.0.0.1:%d", 2379+100*i)},
				},
			},
		})))
	}
	save(hardState(2, members[1], 7), normal(2, 8, marshal(&etcdserverpb.InternalRaftRequest{
		Header:            &etcdserverpb.RequestHeader{ID: members[1]<<48 | 8},
		ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"},
	})))

	// Entries of an old leader that a new one overwrites: 9, 10, 11 of term 2 give way to 9 of term 3.
	save(nil, normal(2, 9, put(1009, 3000)), normal(2, 10, put(1010, 10)), normal(2, 11, put(1011, 0)))
	save(hardState(3, members[2], 8))
	save(hardState(3, members[2], 9), &raftpb.Entry{Term: new(uint64(3)), Index: new(uint64(9))})

	term, last := uint64(3), uint64(9)
	for i := uint64(0); i < n && err == nil; {
		// Batches of one to seven entries; every eleventh batch comes with no hard state.
		var batch []*raftpb.Entry
		for k := i%7 + 1; k > 0 && i < n; k-- {
			i++
			last++
			batch = append(batch, normal(term, last, put(last, size(last))))
		}
		if i%11 == 0 {
			save(nil, batch...)
		} else {
			save(hardState(term, members[2], last-1), batch...)
		}
		if i%200 < 3 {
			save(hardState(term, members[2], last))
			if err == nil {
				err = w.SaveSnapshot(&walpb.Snapshot{Index: new(last), Term: new(term), ConfState: &raftpb.ConfState{Voters: members}})
			}
			term++
		}
	}

	// A learner is added, and the member list of the last snapshot record shows it.
	last++
	learner := uint64(0x1234)
	save(hardState(term, 0, last), &raftpb.Entry{
		Type: raftpb.EntryConfChange.Enum(), Term: new(term), Index: new(last),
		Data: marshal(&raftpb.ConfChange{
			Id: new(members[0]<<48 | last), Type: raftpb.ConfChangeAddLearnerNode.Enum(), NodeId: new(learner),
			Context: fmt.Appendf(nil, `{"id":%d,"peerURLs":["http://127.0.0.1:2680"],"isLearner":true}`, learner),
		}),
	})
	if err == nil {
		err = w.SaveSnapshot(&walpb.Snapshot{
			Index: new(last), Term: new(term),
			ConfState: &raftpb.ConfState{Voters: members, Learners: []uint64{learner}},
		})
	}
	// Beyond what is committed: two entries and a snapshot record that no reader may use yet.
	save(nil, normal(term, last+1, put(last+1, 7)), normal(term, last+2, put(last+2, 8)))
	if err == nil {
		err = w.SaveSnapshot(&walpb.Snapshot{Index: new(last + 2), Term: new(term), ConfState: &raftpb.ConfState{Voters: members}})
	}
	return err
}

// appendTo goes on where the log in dir ends, in a new term.
func appendTo(dir string, n uint64) (err error) {
	defer recovered(&err)
	lg := zap.NewNop()
	snaps, err := wal.ValidSnapshotEntries(lg, dir)
	if err != nil {
		return fmt.Errorf("ValidSnapshotEntries: %w", err)
	}
	if len(snaps) == 0 {
		return errors.New("no usable snapshot record")
	}
	start := snaps[len(snaps)-1]
	w, err := wal.Open(lg, dir, start)
	if err != nil {
		return fmt.Errorf("Open: %w", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	_, state, ents, err := w.ReadAll()
	if err != nil {
		return fmt.Errorf("ReadAll: %w", err)
	}
	last, term := start.GetIndex(), max(state.GetTerm(), start.GetTerm())+1
	if len(ents) > 0 {
		last = ents[len(ents)-1].GetIndex()
	}
	for range n {
		last++
		if err := w.Save(hardState(term, state.GetVote(), last), []*raftpb.Entry{normal(term, last, put(last, size(last)))}); err != nil {
			return err
		}
	}
	return nil
}

func normal(term, index uint64, data []byte) *raftpb.Entry {
	return &raftpb.Entry{Term: new(term), Index: new(index), Data: data}
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}
