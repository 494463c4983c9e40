// SPDX-License-Identifier: MPL-2.0

//go:build !manual

package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }
