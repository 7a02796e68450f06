//go:build deps

// Package deps pins the modules that the tools and the suite are built from. It is never
// compiled: the build tag is set by nobody. It names the packages that the tests of
// go.etcd.io/etcd/tests/v3/common import, so that `go mod tidy` keeps their modules
// (tests/v3/common itself holds only test files and cannot be imported).
package deps

import (
	_ "github.com/google/go-cmp/cmp"
	_ "github.com/stretchr/testify/assert"
	_ "github.com/stretchr/testify/require"
	_ "go.etcd.io/etcd/tests/v3/framework"
	_ "go.etcd.io/etcd/tests/v3/framework/e2e"
	_ "go.etcd.io/etcd/tests/v3/framework/integration"
	_ "go.etcd.io/etcd/tests/v3/framework/testutils"
	_ "google.golang.org/protobuf/testing/protocmp"
)
