// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// kin is who runs what, as far as owners are known: which processes are an application or a sidecar, and which units and
// containers an application has to itself.
type kin struct {
	runs    map[int32]*application           // by process, the first
	proxies map[int32][]*consul.Registration // the sidecars that a process is
	known   map[*consul.Registration]bool    // the sidecars of proxies
	homes   map[home]*household
}

// home is a systemd service or a container.
type home struct {
	name      string // of the unit, or the container's id
	container bool
	cgroup    uint64 // of a unit: users' managers may have units of one name
	uid       uint32 // of a unit whose cgroup is not known
}

// household is who is known to live in a home.
type household struct {
	app    *application
	pids   map[int32]bool
	uids   map[uint32]bool
	exes   map[string]bool
	shared bool // by several applications, or by an application and a sidecar: it says nothing of whose a third process is
}

// learn reads the owners of the applications' and the sidecars' listeners.
func (a *around) learn() kin {
	k := kin{runs: map[int32]*application{}, proxies: map[int32][]*consul.Registration{}, known: map[*consul.Registration]bool{}, homes: map[home]*household{}}
	for i := range a.apps {
		app := &a.apps[i]
		for _, l := range app.own {
			if owner := a.owner(l); owner != nil {
				k.settle(app, l, owner)
			}
		}
	}
	for i := range a.apps {
		for _, p := range a.apps[i].proxies {
			for _, l := range a.behind[p] {
				if owner := a.owner(l); owner != nil && a.appOf[p] == &a.apps[i] {
					k.settleSidecar(&a.apps[i], p, l, owner)
				}
			}
		}
	}
	return k
}

// settle notes the processes behind a listener of an application, and where they live.
func (k *kin) settle(app *application, l *sockets.Listener, owner *sockets.Owner) {
	for _, p := range owner.Processes {
		if !serves(p) && k.runs[p.PID] == nil {
			k.runs[p.PID] = app
		}
	}
	at, ok := homeOf(l, owner)
	if !ok {
		return
	}
	h := k.homes[at]
	if h == nil {
		h = &household{app: app, pids: map[int32]bool{}, uids: map[uint32]bool{}, exes: map[string]bool{}}
		k.homes[at] = h
	}
	// One process may serve several applications; two that serve one each are what a supervisor has.
	h.shared = h.shared || h.app != app && !h.holds(owner)
	h.uids[l.UID] = true
	for _, p := range owner.Processes {
		h.pids[p.PID] = true
		h.exes[executable(p)] = true
	}
}

// settleSidecar does the same for a sidecar. A program that is its application, too, is none: what it listens on is the
// application's.
func (k *kin) settleSidecar(app *application, p *consul.Registration, l *sockets.Listener, owner *sockets.Owner) {
	for _, process := range owner.Processes {
		if pid := process.PID; !serves(process) && k.runs[pid] != app && !slices.Contains(k.proxies[pid], p) {
			k.proxies[pid] = append(k.proxies[pid], p)
			k.known[p] = true
		}
	}
	if at, ok := homeOf(l, owner); ok {
		if h := k.homes[at]; h != nil && !h.holds(owner) {
			h.shared = true
		}
	}
}

func (h *household) holds(owner *sockets.Owner) bool {
	return slices.ContainsFunc(owner.Processes, func(p sockets.Process) bool { return h.pids[p.PID] })
}

// sidecars lists the sidecars that an owner is.
func (k *kin) sidecars(owner *sockets.Owner) []*consul.Registration {
	var all []*consul.Registration
	for _, p := range owner.Processes {
		all = append(all, k.proxies[p.PID]...)
	}
	return all
}

// is tells whether an owner is a sidecar, and whether that is known.
func (k *kin) is(owner *sockets.Owner, p *consul.Registration) (is, known bool) {
	if owner == nil || len(owner.Processes) == 0 || slices.ContainsFunc(owner.Processes, serves) {
		return false, false
	}
	return slices.Contains(k.sidecars(owner), p), k.known[p]
}

// homeOf is where a listener's owner lives: a container, or a systemd service that is one program's. A slice, a session or
// another scope holds whatever somebody started, and so do a container runtime, a supervisor or ssh.
func homeOf(l *sockets.Listener, owner *sockets.Owner) (home, bool) {
	switch {
	case slices.ContainsFunc(owner.Processes, serves):
		return home{}, false
	case owner.Container != "":
		return home{name: owner.Container, container: true}, true
	case !strings.HasSuffix(owner.Unit, ".service") || supervises(owner.Unit):
		return home{}, false
	case inCgroup(l):
		return home{name: owner.Unit, cgroup: l.CgroupID}, true
	}
	return home{name: owner.Unit, uid: l.UID}, true
}

// supervises tells whether a unit is known to run programs that have nothing to do with each other.
func supervises(unit string) bool {
	name := strings.TrimSuffix(unit, ".service")
	name, _, _ = strings.Cut(name, "@") // an instance
	name = strings.TrimPrefix(name, "snap.")
	return strings.HasPrefix(name, "pm2-") || slices.Contains([]string{
		// container runtimes and orchestrators
		"docker", "docker.dockerd", "containerd", "podman", "crio", "cri-o", "kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent",
		"nomad", "lxc", "lxd", "lxd.daemon", "incus", "libvirtd", "virtqemud", "systemd-nspawn", "buildkit",
		// supervisors
		"supervisor", "supervisord", "runit", "runsvdir", "runsvdir-start", "s6", "s6-svscan", "svscan", "daemontools", "monit", "pm2",
		"circus", "circusd", "xinetd", "inetd", "openbsd-inetd", "cron", "crond", "cronie", "atd", "rc-local", "user",
		// who starts what people ask for, and the agents of this host
		"ssh", "sshd", "jenkins", "gitlab-runner", "consul", "hostagent",
	}, name)
}

// serves tells whether a process holds sockets for others, or is no part of any application. Any process names itself, but
// one that lies so hides what is its own.
func serves(p sockets.Process) bool {
	return p.PID == 1 || slices.Contains(publishers(), p.Name) || slices.Contains([]string{
		"systemd", "init", "xinetd", "inetd", "sshd", "sshd-session", "ssh", "containerd", "containerd-shim", "podman", "nomad",
		"supervisord", "runsvdir", "s6-svscan", "hostagent",
	}, p.Name)
}
