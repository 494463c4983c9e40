// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"path"
	"slices"
	"strings"
)

const (
	// shortID is how many digits of a container id people see (docker ps), and shortAllocation of an allocation's (nomad
	// status).
	shortID, shortAllocation = 12, 8
	// fullID is how many there are in all.
	fullID = 64
	// maxUnit is the longest name of a unit, without its kind.
	maxUnit = 240
	// managerScope is the leaf cgroup of systemd itself, of the system's and of a user's.
	managerScope = "init.scope"
)

// isUnit tells whether name is a unit of systemd of one of the kinds (".service"): in systemd's alphabet, and not too
// long. Whoever owns a cgroup subtree may name its cgroups at will, line breaks included; that is no unit. (No regular
// expression here and below: with such bounds they take 400 kB.)
func isUnit(name string, kinds ...string) bool {
	for _, kind := range kinds {
		stem, ok := strings.CutSuffix(name, kind)
		if ok && stem != "" && len(stem) <= maxUnit && !strings.ContainsFunc(stem, func(r rune) bool { return !inUnit(r) }) {
			return true
		}
	}
	return false
}

func inUnit(r rune) bool {
	return '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' || strings.ContainsRune(`:_.\@-`, r)
}

// isMachine tells whether name is the unit around a machine of systemd-nspawn or libvirt. Cgroups below are the machine's
// own affair: a web.service in there is not the host's.
func isMachine(name string) bool {
	return strings.HasPrefix(name, "machine-") && isUnit(name, ".scope") ||
		strings.HasPrefix(name, "systemd-nspawn@") && isUnit(name, ".service")
}

// cutContainer reads a container's cgroup: "<id>" with the cgroupfs drivers of Docker, containerd and Kubernetes,
// "<prefix>-<id>.scope" with systemd's, "<slice>:<prefix>:<id>" where kubelet has one and containerd the other. A conmon
// scope holds the container's supervisor, not the container.
func cutContainer(name string) (prefix, id string, ok bool) {
	stem := strings.TrimSuffix(name, ".scope")
	if len(stem) < fullID || !isHex(stem[len(stem)-fullID:]) {
		return "", "", false
	}
	before, id := stem[:len(stem)-fullID], stem[len(stem)-fullID:]
	if before == "" {
		return "", id, true
	}
	if outside, found := strings.CutSuffix(before, ":"); found {
		before = outside[strings.LastIndexByte(outside, ':')+1:] + "-"
	}
	switch prefix = strings.TrimSuffix(before, "-"); {
	case prefix == before:
		return "", "", false
	case slices.Contains([]string{"docker", "libpod", "libpod-payload", "crio", "cri-containerd", "containerd", "nerdctl"}, prefix):
		return prefix, id, true
	}
	return "", "", false
}

// cutAllocation reads the cgroup of a Nomad task, "<allocation>.<task>.scope" in nomad.slice or a slice below, and in
// earlier versions "<allocation>" or "<allocation>.<task>" below a cgroup named nomad. An allocation is a UUID.
func cutAllocation(name string) (allocation string, ok bool) {
	allocation, _, _ = strings.Cut(name, ".")
	groups := strings.Split(allocation, "-")
	if len(groups) != 5 {
		return "", false
	}
	for i, digits := range []int{shortAllocation, 4, 4, 4, 12} {
		if len(groups[i]) != digits || !isHex(groups[i]) {
			return "", false
		}
	}
	return allocation, true
}

// isHex tells whether s has no other characters than hex digits as ids have them.
func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// place is what a cgroup's path tells; see Owner.
type place struct{ unit, container, runtime string }

// parseCgroup reads a cgroup's path below the cgroup root: the systemd unit that is its leaf, or the machine around it, and
// the innermost container around it. A cgroup below a unit (a supervisor's child) is not the unit.
func parseCgroup(cgroupPath string) place {
	var p place
	if leaf := path.Base(cgroupPath); isUnit(leaf, ".service", ".scope") {
		p.unit = leaf
	}
	parent, pods, nomad, machine := "", false, false, false
	for name := range strings.SplitSeq(cgroupPath, "/") {
		switch {
		case name == "kubepods", strings.HasPrefix(name, "kubepods-"), strings.HasPrefix(name, "kubepods."):
			pods = true
		case name == "nomad", name == "nomad.slice":
			nomad = true
		case !machine && isMachine(name):
			machine, p.unit = true, name
		}
		if prefix, id, ok := cutContainer(name); ok {
			p.container, p.runtime = id[:shortID], containerRuntime(prefix, parent, pods, nomad)
		} else if id, ok := cutAllocation(name); ok && nomad {
			p.container, p.runtime = id[:shortAllocation], "nomad"
		}
		parent = name
	}
	return p
}

// containerRuntime tells who runs a container, "" where its cgroup does not tell: its own prefix and the name of its
// parent do, and that it is below the cgroup of all pods, or without a prefix below Nomad's.
func containerRuntime(prefix, parent string, pods, nomad bool) string {
	switch {
	case pods:
		return "kubernetes"
	case prefix == "docker", prefix == "" && parent == "docker":
		return "docker"
	case strings.HasPrefix(prefix, "libpod"), parent == "libpod_parent":
		return "podman"
	case prefix == "crio":
		return "cri-o"
	case prefix != "":
		return "containerd"
	case nomad:
		return "nomad"
	}
	return ""
}

// parseProcCgroup reads a /proc/PID/cgroup file as parseCgroup reads a path. Only cgroup2 and, in its absence or beside
// it, systemd's own hierarchy of version 1 follow units and containers.
func parseProcCgroup(text string) place {
	var found place
	for fields := range hierarchies(text) {
		p := parseCgroup(fields.path)
		if found.unit == "" || fields.unified && p.unit != "" {
			found.unit = p.unit
		}
		if found.container == "" || fields.unified && p.container != "" {
			found.container, found.runtime = p.container, p.runtime
		}
	}
	return found
}

// hierarchy is a line of a /proc/PID/cgroup file.
type hierarchy struct {
	unified bool // it is cgroup2's; else it is systemd's
	path    string
}

// hierarchies returns those of a /proc/PID/cgroup file that follow units.
func hierarchies(text string) func(yield func(hierarchy) bool) {
	return func(yield func(hierarchy) bool) {
		for line := range strings.Lines(text) {
			fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
			if len(fields) != 3 || fields[1] != "" && fields[1] != "name=systemd" {
				continue
			}
			if !yield(hierarchy{fields[1] == "", fields[2]}) {
				return
			}
		}
	}
}

// isManager tells whether the process of a /proc/PID/cgroup file is the system's systemd. One of a user, or inside a
// container or a machine, has a longer path.
func isManager(text string) bool {
	for h := range hierarchies(text) {
		if h.path == "/"+managerScope {
			return true
		}
	}
	return false
}
