// bboltcheck reads, makes and changes bbolt files with bbolt itself (go.etcd.io/bbolt, the version of etcd 3.7.3), so that
// the tests of crates/bbolt can compare: what bbolt writes quorate must read alike, and what quorate writes bbolt must read
// alike, find nothing wrong with, and go on writing in.
//
//	bboltcheck check FILE         open FILE read-only, check it (Tx.Check), print its content; changes nothing
//	bboltcheck make FILE SEED     make a new FILE, different for each seed: page sizes, nested and inline buckets, large
//	                              values, deletions with and without a freelist; then print the same as check
//	bboltcheck churn FILE SEED    put and delete in every bucket of FILE, as much as it holds and more, check it after each
//	                              transaction, empty it, check it again; then print the same as check
//	bboltcheck damage FILE BUCKET OLD NEW   put NEW in the place of OLD, which is as long, in every value of BUCKET that
//	                              has it, one at least; then print the same as check
//
// The output of check, one item a line, in order, keys in hex:
//
//	bucket PATH SEQUENCE          PATH is the names of the buckets from the outermost on, joined by "/"
//	entry PATH KEY LENGTH SHA256  LENGTH and SHA256 are of the value
//	end BUCKETS ENTRIES
//
// An error is one line on stderr and exit code 1.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

func main() {
	args := os.Args[1:]
	var err error
	switch {
	case len(args) == 2 && args[0] == "check":
	case len(args) == 3 && (args[0] == "make" || args[0] == "churn"):
		var seed uint64
		if seed, err = strconv.ParseUint(args[2], 10, 64); err != nil {
			usage()
		}
		rng := rand.New(rand.NewPCG(seed, 0))
		if args[0] == "make" {
			err = makeFile(args[1], rng)
		} else {
			err = churn(args[1], rng)
		}
	case len(args) == 5 && args[0] == "damage" && len(args[3]) == len(args[4]):
		err = damage(args[1], args[2], []byte(args[3]), []byte(args[4]))
	default:
		usage()
	}
	if err == nil {
		err = check(os.Stdout, args[1])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bboltcheck: %v\n", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: bboltcheck check FILE | make FILE SEED | churn FILE SEED | damage FILE BUCKET OLD NEW")
	os.Exit(2)
}

// recovered turns a panic of bbolt into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("bbolt panicked: %v", p)
	}
}

func check(out io.Writer, path string) (err error) {
	defer recovered(&err)
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	w := bufio.NewWriter(out)
	err = db.View(func(tx *bolt.Tx) error {
		if err := checkTx(tx); err != nil {
			return err
		}
		var n counts
		err := tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return n.print(w, hex.EncodeToString(name), b)
		})
		fmt.Fprintf(w, "end %d %d\n", n.buckets, n.entries)
		return err
	})
	return errors.Join(err, w.Flush())
}

func checkTx(tx *bolt.Tx) error {
	var all []error
	for err := range tx.Check() {
		all = append(all, err)
	}
	return errors.Join(all...)
}

type counts struct{ buckets, entries int }

func (n *counts) print(w io.Writer, path string, b *bolt.Bucket) error {
	n.buckets++
	fmt.Fprintf(w, "bucket %s %d\n", path, b.Sequence())
	return b.ForEach(func(k, v []byte) error {
		key := hex.EncodeToString(k)
		if v == nil {
			return n.print(w, path+"/"+key, b.Bucket(k))
		}
		n.entries++
		fmt.Fprintf(w, "entry %s %s %d %x\n", path, key, len(v), sha256.Sum256(v))
		return nil
	})
}

// damage changes values as nobody who keeps to the log would.
func damage(path, bucket string, before, after []byte) (err error) {
	defer recovered(&err)
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		if b == nil {
			return fmt.Errorf("no bucket %s", bucket)
		}
		changed := map[string][]byte{}
		err := b.ForEach(func(k, v []byte) error {
			if bytes.Contains(v, before) {
				changed[string(k)] = bytes.ReplaceAll(v, before, after)
			}
			return nil
		})
		if err == nil && len(changed) == 0 {
			err = fmt.Errorf("no value of %s has %q in it", bucket, before)
		}
		for k, v := range changed {
			err = errors.Join(err, b.Put([]byte(k), v))
		}
		return err
	})
}

// makeFile makes a file in several transactions, so that pages are split, merged, freed and used again.
func makeFile(path string, rng *rand.Rand) (err error) {
	defer recovered(&err)
	options := &bolt.Options{
		PageSize:       1024 << rng.IntN(7),
		NoFreelistSync: rng.IntN(3) == 0,
		FreelistType:   []bolt.FreelistType{bolt.FreelistArrayType, bolt.FreelistMapType}[rng.IntN(2)],
		NoSync:         true,
	}
	db, err := bolt.Open(path, 0o600, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for range 2 + rng.IntN(8) {
		if err := db.Update(func(tx *bolt.Tx) error { return round(tx, rng, options.PageSize) }); err != nil {
			return err
		}
	}
	return nil
}

// round changes some buckets of a file that is being made.
func round(tx *bolt.Tx, rng *rand.Rand, page int) error {
	for range 1 + rng.IntN(6) {
		name := []byte(fmt.Sprintf("b%02d", rng.IntN(20)))
		if rng.IntN(8) == 0 {
			if err := tx.DeleteBucket(name); err != nil && tx.Bucket(name) != nil {
				return err
			}
			continue
		}
		b, err := tx.CreateBucketIfNotExists(name)
		if err != nil {
			return err
		}
		if err := fill(b, rng, page, 0); err != nil {
			return err
		}
	}
	return nil
}

func fill(b *bolt.Bucket, rng *rand.Rand, page, depth int) error {
	b.FillPercent = []float64{0.5, 0.9, 1}[rng.IntN(3)]
	puts := []int{0, 1, 3, 20, 200, 1500}[rng.IntN(6)]
	if depth > 0 {
		puts = min(puts, 100)
	}
	start := rng.IntN(5000)
	inOrder := rng.IntN(2) == 0
	for i := range puts {
		n := start + i
		if !inOrder {
			n = rng.IntN(5000)
		}
		if err := b.Put(key(rng, n, page), value(rng, page)); err != nil {
			return err
		}
	}
	if rng.IntN(3) == 0 {
		if err := remove(b, rng, rng.IntN(100)); err != nil {
			return err
		}
	}
	if rng.IntN(3) == 0 {
		if _, err := b.NextSequence(); err != nil {
			return err
		}
	}
	for depth < 5 && rng.IntN(3) == 0 {
		inner, err := b.CreateBucketIfNotExists([]byte(fmt.Sprintf("~%d", rng.IntN(3))))
		if err != nil {
			return err
		}
		if err := fill(inner, rng, page, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func key(rng *rand.Rand, n, page int) []byte {
	k := []byte(fmt.Sprintf("%05d", n))
	switch rng.IntN(40) {
	case 0:
		k = append(k, bytes.Repeat([]byte{byte(rng.Uint32())}, rng.IntN(page))...)
	case 1:
		k = append(k, bytes.Repeat([]byte{'k'}, rng.IntN(3*page))...)
	}
	return k[:min(len(k), bolt.MaxKeySize)]
}

func value(rng *rand.Rand, page int) []byte {
	size := rng.IntN(60)
	switch rng.IntN(60) {
	case 0:
		size = rng.IntN(page * 3)
	case 1:
		size = rng.IntN(page * 8)
	case 2:
		size = page*(1+rng.IntN(4)) - 16 - 16 - 5 // A page is exactly full if it has a short key.
	}
	v := make([]byte, size)
	for i := range v {
		v[i] = byte(rng.Uint32())
	}
	return v
}

// remove deletes some percent of the keys.
func remove(b *bolt.Bucket, rng *rand.Rand, percent int) error {
	var keys [][]byte
	_ = b.ForEach(func(k, v []byte) error {
		if v != nil && rng.IntN(100) < percent {
			keys = append(keys, bytes.Clone(k))
		}
		return nil
	})
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// churn works on a file as etcd would: without a freelist on disk in half of the cases.
func churn(path string, rng *rand.Rand) (err error) {
	defer recovered(&err)
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: rng.IntN(2) == 0})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for _, percent := range []int{5, 50, 90, 20, 100} {
		err := db.Update(func(tx *bolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
				if err := remove(b, rng, percent); err != nil || percent == 100 {
					return err
				}
				for range rng.IntN(300) {
					if err := b.Put(key(rng, rng.IntN(5000), db.Info().PageSize), value(rng, db.Info().PageSize)); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
		if err := db.View(checkTx); err != nil {
			return fmt.Errorf("after %d %% were deleted: %w", percent, err)
		}
	}
	return nil
}
