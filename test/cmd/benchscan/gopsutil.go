// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"fmt"
	"io"

	"github.com/shirou/gopsutil/v3/net"
	"github.com/shirou/gopsutil/v3/process"
)

// gopsutilMode is how benchscan calls itself as a peer: what a Go program does that takes a library for it.
const gopsutilMode = "gopsutil"

func listWithGopsutil(out io.Writer) error {
	all, err := net.Connections("tcp")
	if err != nil {
		return err
	}
	names := map[int32]string{}
	b := bufio.NewWriter(out)
	for _, c := range all {
		if c.Status != "LISTEN" {
			continue
		}
		name, known := names[c.Pid]
		if !known {
			if p, err := process.NewProcess(c.Pid); err == nil {
				name, _ = p.Name()
			}
			names[c.Pid] = name
		}
		fmt.Fprintf(b, "%s:%d %s (pid %d)\n", c.Laddr.IP, c.Laddr.Port, name, c.Pid)
	}
	return b.Flush()
}
