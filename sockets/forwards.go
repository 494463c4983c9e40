// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// forwards returns where Docker's proxy for one port passes on what comes, as its arguments say; "" for any other program.
// Nobody else's arguments are read: they hold passwords.
func forwards(pid int32, exe string) string {
	if path.Base(strings.TrimSuffix(exe, " (deleted)")) != "docker-proxy" {
		return ""
	}
	text, err := readSmall(procPath(pid, "cmdline"), 4096)
	if err != nil {
		return ""
	}
	return parseForwards(string(text))
}

// parseForwards reads "docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80",
// with zeros between the words.
func parseForwards(arguments string) string {
	values := map[string]string{}
	name := ""
	for word := range strings.SplitSeq(strings.TrimRight(arguments, "\x00"), "\x00") {
		if flag, ok := strings.CutPrefix(word, "-"); ok {
			key, value, given := strings.Cut(strings.TrimPrefix(flag, "-"), "=")
			if values[key] = value; !given {
				name = key
			}
			continue
		}
		values[name], name = word, ""
	}
	addr, err := netip.ParseAddr(values["container-ip"])
	port, err2 := strconv.ParseUint(values["container-port"], 10, 16)
	if err != nil || err2 != nil || port == 0 {
		return ""
	}
	return netip.AddrPortFrom(addr.Unmap().WithZone(""), uint16(port)).String()
}
