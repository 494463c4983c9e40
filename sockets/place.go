// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"path"
	"regexp"
	"strings"
)

const (
	// shortID is how many digits of a container id people see (docker ps), and shortAllocation of an allocation's (nomad
	// status).
	shortID, shortAllocation = 12, 8
	// managerScope is the leaf cgroup of systemd itself, of the system's and of a user's.
	managerScope = "init.scope"
)

var (
	// unitName is a service or scope in systemd's alphabet, "dbus.service". Whoever owns a cgroup subtree may name its
	// cgroups at will, line breaks included, so anything else is no unit.
	unitName = regexp.MustCompile(`^[0-9A-Za-z:_.\\@-]{1,240}\.(service|scope)$`)
	// socketName is the same for a socket unit.
	socketName = regexp.MustCompile(`^[0-9A-Za-z:_.\\@-]{1,240}\.socket$`)
	// machineName is the unit around a machine of systemd-nspawn or libvirt. Cgroups below are the machine's own affair: a
	// web.service in there is not the host's.
	machineName = regexp.MustCompile(`^(machine-.*\.scope|systemd-nspawn@.*\.service)$`)
	// containerName is a container's cgroup: "<id>" with the cgroupfs drivers of Docker, containerd and Kubernetes,
	// "<runtime>-<id>.scope" with systemd's, "<slice>:<runtime>:<id>" where kubelet has one and containerd the other. A
	// conmon scope holds the container's supervisor, not the container.
	containerName = regexp.MustCompile(`^(?:(docker|libpod(?:-payload)?|crio|cri-containerd|containerd|nerdctl)-|[^:]+:(cri-containerd|crio|nerdctl):)?` +
		`([0-9a-f]{64})(?:\.scope)?$`)
	// allocationName is the cgroup of a Nomad task, "<allocation>.<task>.scope" in nomad.slice or a slice below, and in
	// earlier versions "<allocation>" or "<allocation>.<task>" below a cgroup named nomad.
	allocationName = regexp.MustCompile(`^([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?:\.[^/]*)?$`)
)

// place is what a cgroup's path tells; see Owner.
type place struct{ unit, container, runtime string }

// parseCgroup reads a cgroup's path below the cgroup root: the systemd unit that is its leaf, or the machine around it, and
// the innermost container around it. A cgroup below a unit (a supervisor's child) is not the unit.
func parseCgroup(cgroupPath string) place {
	var p place
	if leaf := path.Base(cgroupPath); unitName.MatchString(leaf) {
		p.unit = leaf
	}
	parent, pods, nomad, machine := "", false, false, false
	for name := range strings.SplitSeq(cgroupPath, "/") {
		switch {
		case name == "kubepods", strings.HasPrefix(name, "kubepods-"), strings.HasPrefix(name, "kubepods."):
			pods = true
		case name == "nomad", name == "nomad.slice":
			nomad = true
		case !machine && machineName.MatchString(name) && unitName.MatchString(name):
			machine, p.unit = true, name
		}
		if match := containerName.FindStringSubmatch(name); match != nil {
			p.container, p.runtime = match[3][:shortID], containerRuntime(match[1]+match[2], parent, pods)
		} else if match := allocationName.FindStringSubmatch(name); match != nil && nomad {
			p.container, p.runtime = match[1][:shortAllocation], "nomad"
		}
		parent = name
	}
	return p
}

// containerRuntime tells who runs a container, "" where its cgroup does not tell: its own prefix and the name of its
// parent do, and that it is below the cgroup of all pods.
func containerRuntime(prefix, parent string, pods bool) string {
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
