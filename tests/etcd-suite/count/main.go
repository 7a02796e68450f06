// etcd-suite-count reads the verbose output of a compiled Go test (-test.v=test2json) and counts leaf
// tests: subtests that have no subtest of their own. A function that ran no subtest is no leaf test,
// whatever it says about itself, unless the file of -functions names it as one that has none by nature.
//
//	etcd-suite-count [-functions FILE] [-golden FILE [-subset]] [-write FILE] LOG
//
// It lists what failed, with what the test printed, and ends with
//
//	etcd-suite: N passed, N failed
//	N passed, N failed
//
// Exit code 1: a test failed or has no result, the run did not reach its end, nothing passed, or a
// name of the golden file did not pass. With -subset, names of the golden file that were not started are
// forgiven (for runs of a part). -write stores the names that passed.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// What servers and etcdctl say (the framework prefixes it with the program and its pid), and what the
// framework says about starting and stopping them.
var noise = regexp.MustCompile(`^\S*/(etcd|etcd-last-release|etcdctl|etcdutl)\b.*\(\d+\): |^ *logger\.go:\d+: \S+\t(DEBUG|INFO)\t`)

var resultLine = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (.*) \([0-9.]+s\)$`)

type test struct {
	result   string // PASS, FAIL, SKIP or empty
	children bool
	output   []string
}

func main() {
	golden := flag.String("golden", "", "file of leaf tests that must pass")
	functions := flag.String("functions", "", "file of functions that have no subtests by nature")
	subset := flag.Bool("subset", false, "forgive golden tests that were not started")
	write := flag.String("write", "", "write the leaf tests that passed to this file")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: etcd-suite-count [-functions FILE] [-golden FILE [-subset]] [-write FILE] LOG")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *functions, *golden, *subset, *write); err != nil {
		fmt.Fprintf(os.Stderr, "etcd-suite-count: %v\n", err)
		os.Exit(1)
	}
}

func run(log, functions, golden string, subset bool, write string) error {
	data, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	tests, order, finished := parse(data)
	whole, err := names(functions)
	if err != nil {
		return err
	}
	wanted, err := names(golden)
	if err != nil {
		return err
	}

	var passed, failed, skipped []string
	for _, name := range order {
		t := tests[name]
		leaf := !t.children && (strings.Contains(name, "/") || slices.Contains(whole, name))
		switch {
		case t.result == "PASS" && leaf:
			passed = append(passed, name)
		case t.result == "SKIP" && leaf:
			skipped = append(skipped, name)
		case t.result == "FAIL" || t.result == "":
			// A parent fails with its child; it is a failure of its own only if no child failed.
			if !t.children || !anyFailed(tests, name+"/") {
				failed = append(failed, name)
			}
		}
	}
	slices.Sort(passed)

	for _, name := range failed {
		t := tests[name]
		fmt.Printf("FAILED %s%s\n", name, map[bool]string{true: " (no result)"}[t.result == ""])
		for _, line := range t.output[max(0, len(t.output)-40):] {
			fmt.Printf("    %s\n", line)
		}
	}
	for _, name := range skipped {
		fmt.Printf("skipped %s\n", name)
	}

	var problems []string
	if golden != "" {
		total, missing := 0, 0
		for _, name := range wanted {
			if _, started := tests[name]; subset && !started {
				continue
			}
			total++
			if _, ok := slices.BinarySearch(passed, name); !ok {
				missing++
				fmt.Printf("did not pass, but passes with stock etcd: %s\n", name)
			}
		}
		fmt.Printf("golden list: %d of %d passed\n", total-missing, total)
		if missing > 0 {
			problems = append(problems, fmt.Sprintf("%d tests of the golden list did not pass", missing))
		}
	}
	if write != "" {
		if err := os.WriteFile(write, []byte(strings.Join(passed, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	if len(passed) == 0 {
		problems = append(problems, "no leaf test passed")
	}
	if len(failed) > 0 {
		problems = append(problems, fmt.Sprintf("%d tests failed", len(failed)))
	}
	if !finished {
		problems = append(problems, "the test program did not come to its end")
	}
	for _, p := range problems {
		fmt.Printf("etcd-suite: %s\n", p)
	}
	fmt.Printf("etcd-suite: %d passed, %d failed\n%d passed, %d failed\n", len(passed), len(failed), len(passed), len(failed))
	if len(problems) > 0 {
		os.Exit(1)
	}
	return nil
}

// names reads a file of one name a line; lines that start with # are remarks.
func names(file string) ([]string, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	return list, nil
}

func anyFailed(tests map[string]*test, prefix string) bool {
	for name, t := range tests {
		if strings.HasPrefix(name, prefix) && (t.result == "FAIL" || t.result == "") {
			return true
		}
	}
	return false
}

// parse follows the frames of -test.v=test2json: lines of the testing package start with a 0x16 byte,
// which may stand in the middle of a line that a server left unfinished.
func parse(data []byte) (tests map[string]*test, order []string, finished bool) {
	tests = map[string]*test{}
	var current *test
	scanner := bufio.NewScanner(bytes.NewReader(data))
	scanner.Buffer(nil, 64<<20)
	for scanner.Scan() {
		line := strings.TrimRight(scanner.Text(), "\r")
		i := strings.LastIndexByte(line, 0x16)
		if i < 0 {
			if strings.HasPrefix(line, "goroutine ") {
				current = nil // the stacks after a panic
			}
			if current != nil && !noise.MatchString(line) {
				current.output = append(current.output, line)
			}
			continue
		}
		line = strings.TrimLeft(line[i+1:], " ")
		switch {
		case line == "PASS" || line == "FAIL":
			finished = true
		case strings.HasPrefix(line, "=== "):
			fields := strings.SplitN(line, " ", 3)
			name := ""
			if len(fields) == 3 {
				name = strings.TrimLeft(fields[2], " ")
			}
			if fields[1] == "RUN" {
				tests[name] = &test{}
				order = append(order, name)
				for p := name; ; {
					i := strings.LastIndexByte(p, '/')
					if i < 0 {
						break
					}
					p = p[:i]
					if parent := tests[p]; parent != nil {
						parent.children = true
						break
					}
				}
			}
			current = tests[name]
		default:
			if m := resultLine.FindStringSubmatch(line); m != nil {
				if t := tests[m[2]]; t != nil {
					t.result = m[1]
					current = t
				}
			}
		}
	}
	return tests, order, finished
}
