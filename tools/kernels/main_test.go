package main

import (
	"testing"

	"github.com/lictor-mesh/lictor/tools/testbed/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
