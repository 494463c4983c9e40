// SPDX-License-Identifier: MPL-2.0

// Command consul finds or builds the real Consul that tests and demo run, showing progress. With -print it prints where
// the program is.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/hostagent/hostagent/test/host"
)

func main() {
	show := flag.Bool("print", false, "print the path of the program")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	path, err := host.ConsulBinary(ctx, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if *show {
		fmt.Println(path)
	}
}
