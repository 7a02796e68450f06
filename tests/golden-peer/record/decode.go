package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// decode writes what was said over one connection, request after request.
func decode(w io.Writer, name string, request, response []byte) error {
	// NN-DIALER-to-TARGET
	requests := bufio.NewReader(bytes.NewReader(request))
	responses := bufio.NewReader(bytes.NewReader(response))
	for {
		req, err := http.ReadRequest(requests)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s %s %d\n", req.Method, req.URL.RequestURI(), len(body))
		for _, h := range []string{"X-Server-From", "X-Server-Version", "X-Min-Cluster-Version", "X-Etcd-Cluster-Id", "X-Raft-To", "X-Peerurls", "Content-Type"} {
			if v := req.Header.Get(h); v != "" {
				fmt.Fprintf(w, "  %s: %s\n", h, v)
			}
		}
		if req.Method == http.MethodPost && req.URL.Path == "/raft" {
			var m raftpb.Message
			if err := proto.Unmarshal(body, &m); err != nil {
				return err
			}
			print(w, "message", &m)
		}

		resp, err := http.ReadResponse(responses, req)
		if err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				fmt.Fprintln(w, "no answer")
				return nil
			}
			return err
		}
		fmt.Fprintf(w, "= %d\n", resp.StatusCode)
		switch {
		case resp.StatusCode == http.StatusOK && strings.HasPrefix(req.URL.Path, "/raft/stream/msgapp/"):
			err = msgapp(w, resp.Body, hex(req.Header.Get("X-Raft-To")), hex(req.Header.Get("X-Server-From")))
		case resp.StatusCode == http.StatusOK && strings.HasPrefix(req.URL.Path, "/raft/stream/message/"):
			err = messages(w, resp.Body)
		default:
			var answer []byte
			answer, err = io.ReadAll(resp.Body)
			if len(answer) > 0 {
				fmt.Fprintf(w, "  %d bytes\n", len(answer))
			}
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			fmt.Fprintln(w, "cut")
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func hex(s string) uint64 {
	n, _ := strconv.ParseUint(s, 16, 64)
	return n
}

// msgapp reads a msgappv2 stream, as the dialer does: from is the member that sends, to the dialer.
func msgapp(w io.Writer, r io.Reader, from, to uint64) error {
	in := bufio.NewReader(r)
	u64 := func() (uint64, error) {
		var b [8]byte
		_, err := io.ReadFull(in, b[:])
		return binary.BigEndian.Uint64(b[:]), err
	}
	blob := func() ([]byte, error) {
		n, err := u64()
		if err != nil {
			return nil, err
		}
		b := make([]byte, n)
		_, err = io.ReadFull(in, b)
		return b, err
	}
	var term, index uint64
	for {
		tag, err := in.ReadByte()
		if err != nil {
			return cut(err)
		}
		switch tag {
		case 0:
			fmt.Fprintln(w, "beat")
		case 1:
			n, err := u64()
			if err != nil {
				return cut(err)
			}
			m := &raftpb.Message{
				Type: raftpb.MsgApp.Enum(), From: new(from), To: new(to),
				Term: new(term), LogTerm: new(term), Index: new(index),
			}
			for range n {
				b, err := blob()
				if err != nil {
					return cut(err)
				}
				e := &raftpb.Entry{}
				if err := proto.Unmarshal(b, e); err != nil {
					return err
				}
				m.Entries = append(m.Entries, e)
			}
			commit, err := u64()
			if err != nil {
				return cut(err)
			}
			m.Commit = new(commit)
			index += n
			print(w, "append", m)
		case 2:
			b, err := blob()
			if err != nil {
				return cut(err)
			}
			m := &raftpb.Message{}
			if err := proto.Unmarshal(b, m); err != nil {
				return err
			}
			term, index = m.GetTerm(), m.GetIndex()
			if n := len(m.Entries); n > 0 {
				index = m.Entries[n-1].GetIndex()
			}
			print(w, "full", m)
		default:
			return fmt.Errorf("tag %d", tag)
		}
	}
}

func messages(w io.Writer, r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		var n [8]byte
		if _, err := io.ReadFull(in, n[:]); err != nil {
			return cut(err)
		}
		b := make([]byte, binary.BigEndian.Uint64(n[:]))
		if _, err := io.ReadFull(in, b); err != nil {
			return cut(err)
		}
		m := &raftpb.Message{}
		if err := proto.Unmarshal(b, m); err != nil {
			return err
		}
		if m.GetType() == raftpb.MsgHeartbeat && m.GetFrom() == 0 && m.GetTo() == 0 {
			fmt.Fprintln(w, "beat")
			continue
		}
		print(w, "message", m)
	}
}

// cut: streams end where the capture ends.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// print writes a message: every field by number in the .proto, 0 where it is absent.
func print(w io.Writer, how string, m *raftpb.Message) {
	fmt.Fprintf(w, "%s type=%d to=%x from=%x term=%d logterm=%d index=%d commit=%d reject=%v hint=%d context=%x vote=%x entries=%d\n",
		how, int32(m.GetType()), m.GetTo(), m.GetFrom(), m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit(),
		m.GetReject(), m.GetRejectHint(), m.GetContext(), m.GetVote(), len(m.GetEntries()))
	for _, e := range m.GetEntries() {
		fmt.Fprintf(w, "  entry %d %d %d %d %x\n", e.GetIndex(), e.GetTerm(), int32(e.GetType()), len(e.GetData()), sha256.Sum256(e.GetData()))
	}
}
