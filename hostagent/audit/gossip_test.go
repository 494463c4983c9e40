// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// Keys of gossip, made for these tests.
const (
	keyA      = "+QiA+KpeDkM3ydTKD8HnetEZMaWtFON/AhbxAafdBtU="
	keyB      = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	keyShort  = "AAECAwQFBgcICQoLDA0ODw=="
	keyBroken = "AAECAwQFBgcICQoLDA0OD!"
)

// transportCase is one host and the row that it gets.
type transportCase struct {
	name string
	in   Input
	disk string // of one file, DIR/a.hcl; "" for no files
	want Row    // without ID
}

// run compares whole rows. The folder of the files stands as DIR in them, and in the remedies the catalog's as "catalog".
func (c transportCase) run(t *testing.T, id catalog.ID) {
	t.Helper()
	t.Run(c.name, func(t *testing.T) {
		in, dir := c.in, ""
		if c.disk != "" {
			in.Disk, dir = transportDisk(t, c.disk)
		}
		for i := range in.ConfigFiles.Value {
			in.ConfigFiles.Value[i].Path = strings.Replace(in.ConfigFiles.Value[i].Path, "DIR", dir, 1)
		}
		got := transportRow(t, in, id)
		for i := range got.Found {
			if dir != "" {
				got.Found[i] = strings.ReplaceAll(got.Found[i], dir, "DIR")
			}
		}
		for _, text := range append(got.Found, got.Needs, got.Remedy) {
			for _, key := range []string{keyA, keyB, keyShort, keyBroken} {
				if strings.Contains(text, key[:8]) {
					t.Errorf("a key is shown: %s", text)
				}
			}
		}
		c.want.ID = id
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func transportDisk(t *testing.T, text string) (Seen[*configdir.Config], string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.hcl"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := configdir.Read(dir)
	if err != nil || len(config.Problems) > 0 {
		t.Fatalf("cannot read %s: %v %v", text, err, config.Problems)
	}
	return Known(config), dir
}

func transportRow(t *testing.T, in Input, id catalog.ID) Row {
	t.Helper()
	report := Evaluate(in)
	for _, row := range report.Rows {
		if row.ID != id {
			continue
		}
		for _, item := range catalog.Items() {
			if item.ID == id && row.Remedy == item.Remedy {
				row.Remedy = "catalog"
			}
		}
		return row
	}
	t.Fatalf("no row %s", id)
	return Row{}
}

func agentRuns(r consul.Running) Seen[consul.Running] { return Known(r) }

var (
	noAgent   = Unseen[consul.Running]("connection refused", "a running agent")
	noKeyring = Unseen[[]consul.Keyring]("the token may not read it", `keyring = "read"`)
)

// filesChanged are an agent that was started at 12:00 and its one file that was changed then.
func filesChanged(in Input, at time.Duration) Input {
	started := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	in.Process = Known(Process{Started: started})
	in.ConfigFiles = Known([]File{{Path: "DIR"}, {Path: "DIR/a.hcl", Changed: started.Add(at)}})
	return in
}

func TestGossipEncryption(t *testing.T) {
	dataFiles := func(paths ...string) Seen[[]File] {
		files := []File{{Path: "/opt/consul", Mode: fs.ModeDir | 0o755}}
		for _, path := range paths {
			files = append(files, File{Path: path, Mode: 0o600})
		}
		return Known(files)
	}
	for _, c := range []transportCase{
		{
			name: "client", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true)})},
			want: Row{Status: Pass, Found: []string{"the agent's gossip within the datacenter is encrypted"}},
		},
		{
			name: "server", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true), GossipEncryptedWAN: new(true)})},
			want: Row{Status: Pass, Found: []string{"the agent's gossip within the datacenter is encrypted", "its gossip between datacenters is encrypted"}},
		},
		{
			name: "plain", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(false)})}, disk: `encrypt = "` + keyA + `"`,
			want: Row{Status: Fail, Found: []string{"the agent's gossip within the datacenter is not encrypted"}, Remedy: "catalog"},
		},
		{
			name: "plain between datacenters", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true), GossipEncryptedWAN: new(false)})},
			want: Row{Status: Fail, Found: []string{"the agent's gossip within the datacenter is encrypted", "its gossip between datacenters is not encrypted"}, Remedy: "catalog"},
		},
		{
			name: "nothing", in: Input{Running: noAgent},
			want: Row{Status: Unknown, Found: []string{"what the agent runs with: connection refused"}, Needs: "a running agent"},
		},
		{
			name: "not told", in: Input{Running: agentRuns(consul.Running{})},
			want: Row{Status: Unknown, Found: []string{"the agent does not tell whether gossip is encrypted"}, Needs: "--consul-config with the agent's configuration"},
		},
		{
			name: "written", in: Input{Running: noAgent}, disk: `encrypt = "` + keyA + `"`,
			want: Row{Status: Pass, Found: []string{"DIR/a.hcl:1 sets encrypt"}},
		},
		{
			name: "not written, and the data directory not seen", in: Input{Running: noAgent, DataFiles: Unseen[[]File]("permission denied", "run as root")}, disk: `server = true`,
			want: Row{Status: Unknown, Needs: "run as root", Found: []string{
				"no file sets encrypt, and the agent's data directory may hold a key (serf/local.keyring): permission denied"}},
		},
		{
			name: "not written, but kept", in: Input{Running: noAgent, DataFiles: dataFiles("/opt/consul/serf/local.keyring")}, disk: `server = true`,
			want: Row{Status: Pass, Found: []string{"no file sets encrypt, but /opt/consul/serf/local.keyring holds a key"}},
		},
		{
			name: "neither", in: Input{Running: noAgent, DataFiles: dataFiles("/opt/consul/serf/remote.keyring")}, disk: `encrypt = ""`,
			want: Row{Status: Fail, Found: []string{"no file sets encrypt, and the agent's data directory holds no serf/local.keyring"}, Remedy: "catalog"},
		},
		{
			name: "a data directory that lets nobody in", disk: `server = true`,
			in: Input{Running: noAgent, DataFiles: Known([]File{{Path: "/opt/consul", Mode: fs.ModeDir | 0o700}})},
			want: Row{Status: Unknown, Needs: byAgent, Found: []string{
				"no file sets encrypt, and whether /opt/consul holds a key (serf/local.keyring) was not looked at"}},
		},
		{
			name: "a folder of keys that lets nobody in", disk: `server = true`, in: Input{Running: noAgent, DataFiles: Known([]File{
				{Path: "/opt/consul", Mode: fs.ModeDir | 0o755}, {Path: "/opt/consul/serf", Mode: fs.ModeDir | 0o700}})},
			want: Row{Status: Unknown, Needs: byAgent, Found: []string{
				"no file sets encrypt, and whether /opt/consul/serf holds a key (serf/local.keyring) was not looked at"}},
		},
		{
			name: "a data directory that is not there", disk: `server = true`,
			in: Input{Running: noAgent, DataFiles: Known([]File{{Path: "/opt/consul", Problem: "cannot be looked at"}})},
			want: Row{Status: Unknown, Needs: byAgent, Found: []string{
				"no file sets encrypt, and whether /opt/consul holds a key (serf/local.keyring) was not looked at"}},
		},
		{
			name: "kept, but turned off", in: Input{Running: noAgent, DataFiles: dataFiles("/opt/consul/serf/local.keyring")}, disk: `disable_keyring_file = true`,
			want: Row{Status: Fail, Found: []string{"no file sets encrypt, and DIR/a.hcl:1 turns the keyring's file off"}, Remedy: "catalog"},
		},
		{
			name: "from the servers", in: Input{Running: noAgent, DataFiles: dataFiles()}, disk: `auto_config { enabled = true }`,
			want: Row{Status: Unknown, Found: []string{"DIR/a.hcl:1: auto_config.enabled = true: the agent gets its gossip key from the servers"},
				Needs: "the running agent: hostagent's token with agent:read on this node"},
		},
	} {
		c.run(t, catalog.GossipEncryption)
	}
}

func TestGossipVerify(t *testing.T) {
	agent := func(incoming, outgoing bool) Input {
		return Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true), GossipVerifyIncoming: &incoming, GossipVerifyOutgoing: &outgoing,
			Agent: consul.Agent{Version: "1.21.0"}})}
	}
	both := []string{"the agent runs with encrypt_verify_incoming = true", "the agent runs with encrypt_verify_outgoing = true"}
	for _, c := range []transportCase{
		{name: "both", in: agent(true, true), want: Row{Status: Pass, Found: both}},
		{
			name: "step 1", in: agent(false, false),
			want: Row{Status: Fail, Remedy: gossipTo2, Found: []string{
				"the agent runs with encrypt_verify_incoming = false", "the agent runs with encrypt_verify_outgoing = false", gossipStep1}},
		},
		{
			name: "step 2", in: agent(false, true),
			want: Row{Status: Fail, Remedy: gossipTo3, Found: []string{
				"the agent runs with encrypt_verify_incoming = false", "the agent runs with encrypt_verify_outgoing = true", gossipStep2}},
		},
		{
			name: "in the wrong order", in: agent(true, false),
			want: Row{Status: Fail, Remedy: gossipUncut, Found: []string{
				"the agent runs with encrypt_verify_incoming = true", "the agent runs with encrypt_verify_outgoing = false", gossipCut}},
		},
		{
			name: "gossip off", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(false), GossipVerifyIncoming: new(true), GossipVerifyOutgoing: new(true)})},
			want: Row{Status: NotApplicable, Found: []string{"gossip is not encrypted: see gossip-encryption"}},
		},
		{
			name: "nothing", in: Input{Running: noAgent},
			want: Row{Status: Unknown, Found: []string{"what the agent runs with: connection refused"}, Needs: "a running agent"},
		},
		{
			name: "not told", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true), GossipVerifyIncoming: new(true)})},
			want: Row{Status: Unknown, Found: []string{"encrypt_verify_outgoing: the agent does not tell, and its files were not read"},
				Needs: "--consul-config with the agent's configuration"},
		},
		{
			name: "written", in: Input{Running: noAgent}, disk: "encrypt = \"AAAA\"\nencrypt_verify_incoming = false",
			want: Row{Status: Fail, Remedy: gossipTo3, Found: []string{"DIR/a.hcl:2: encrypt_verify_incoming = false",
				"no file sets encrypt_verify_outgoing; Consul's default is true", gossipStep2}},
		},
		{
			name: "a file from before the start", in: filesChanged(agent(true, true), -time.Hour), disk: `encrypt_verify_incoming = true`,
			want: Row{Status: Pass, Found: both},
		},
		{
			name: "half-way, and a file from after the start", in: filesChanged(agent(false, true), time.Hour), disk: `encrypt_verify_incoming = false`,
			want: Row{Status: Fail, Remedy: gossipTo3, Found: []string{
				"the agent runs with encrypt_verify_incoming = false", "the agent runs with encrypt_verify_outgoing = true", gossipStep2}},
		},
		{
			name: "a file from after the start", in: filesChanged(agent(true, true), time.Hour), disk: `encrypt_verify_incoming = true`,
			want: Row{Status: Unknown, Needs: "a restart of the agent: see restart-pending", Found: append(both[:2:2],
				"DIR/a.hcl sets encrypt_verify_incoming and was changed after the agent was started; after a reload the agent tells what its files say, not what it runs with")},
		},
	} {
		c.run(t, catalog.GossipVerify)
	}
}

func TestGossipKey(t *testing.T) {
	key := func(secret string, nodes, primary int) consul.GossipKey {
		return consul.GossipKey{Hash: consul.HashSecret(secret), Bytes: 32, Nodes: nodes, Primary: primary}
	}
	ring := func(nodes int, keys ...consul.GossipKey) consul.Keyring {
		return consul.Keyring{Datacenter: "dc1", Nodes: nodes, Keys: keys}
	}
	rings := func(all ...consul.Keyring) Input {
		return Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true)}), Keyrings: Known(all)}
	}
	wan, dc2 := ring(2, key("a", 2, 2)), ring(4, key("b", 4, 4))
	wan.WAN, dc2.Datacenter = true, "dc2"
	short := key("a", 3, 3)
	short.Bytes = 16
	unread := key("a", 3, 3)
	unread.Bytes = 0
	failing := ring(2, key("a", 2, 2))
	failing.Problem = "1/3 nodes reported failure"
	one := `in datacenter "dc1": one key of 32 bytes on all nodes`
	for _, c := range []transportCase{
		{
			name: "one", in: rings(wan, ring(3, key("a", 3, 3))),
			want: Row{Status: Pass, Found: []string{"between datacenters: one key of 32 bytes on all nodes", one}},
		},
		{name: "one, of a version that tells no primary", in: rings(ring(3, key("a", 3, 0))), want: Row{Status: Pass, Found: []string{one}}},
		{
			name: "short", in: rings(ring(3, short)),
			want: Row{Status: Fail, Found: []string{`in datacenter "dc1": a key of 16 bytes`}, Remedy: weakKeyRemedy},
		},
		{
			name: "unreadable", in: rings(ring(3, unread)), want: Row{Status: Unknown, Found: []string{
				`in datacenter "dc1": the length of a key is not known`}, Needs: "keys in base64, as Consul shows them"},
		},
		{
			name: "other datacenter, other key", in: rings(ring(3, key("a", 3, 3)), dc2),
			want: Row{Status: Warn, Remedy: ringsRemedy, Found: []string{one, `in datacenter "dc2": one key of 32 bytes on all nodes`,
				`gossip in datacenter "dc1" and gossip in datacenter "dc2" use different keys`}},
		},
		{
			name: "installed on some", in: rings(ring(3, key("a", 3, 3), key("b", 2, 0))),
			want: Row{Status: Warn, Remedy: spreadRemedy, Found: []string{
				`in datacenter "dc1": 2 keys, and one is on 2 of 3 nodes only: a rotation is under way, at its first step (install) or last (remove)`}},
		},
		{
			name: "installed on all", in: rings(ring(3, key("a", 3, 3), key("b", 3, 0))),
			want: Row{Status: Warn, Remedy: useRemedy, Found: []string{
				`in datacenter "dc1": 2 keys on all nodes, which send with one of them: a rotation is under way, before its second step (use) or before its last (remove)`}},
		},
		{
			name: "installed on all, of a version that tells no primary", in: rings(ring(3, key("a", 3, 0), key("b", 3, 0))),
			want: Row{Status: Warn, Remedy: useRemedy, Found: []string{
				`in datacenter "dc1": 2 keys on all nodes: a rotation is under way; this version does not tell with which of them nodes send`}},
		},
		{
			name: "used by some", in: rings(ring(3, key("a", 3, 1), key("b", 3, 2))),
			want: Row{Status: Fail, Remedy: splitRemedy, Found: []string{
				`in datacenter "dc1": nodes send with 2 different keys: a rotation is under way, and the new key is not in use on all nodes`}},
		},
		{
			name: "missing on some", in: rings(ring(3, key("a", 2, 2))),
			want: Row{Status: Warn, Remedy: spreadRemedy, Found: []string{`in datacenter "dc1": 2 of 3 nodes have the key`}},
		},
		{
			name: "some do not answer", in: rings(failing),
			want: Row{Status: Unknown, Found: []string{`in datacenter "dc1": not all nodes answered: 1/3 nodes reported failure`},
				Needs: "an answer of every node: consul keyring -list tells which of them fail"},
		},
		{
			name: "no keys", in: rings(ring(3)),
			want: Row{Status: Unknown, Found: []string{`in datacenter "dc1": no node told a key`},
				Needs: "an answer of every node: consul keyring -list tells which of them fail"},
		},
		{
			name: "no rings", in: rings(),
			want: Row{Status: Unknown, Found: []string{"the agent tells of no keyring"}, Needs: needsKeyring},
		},
		{
			name: "gossip off", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(false)}), Keyrings: Known([]consul.Keyring{})},
			want: Row{Status: NotApplicable, Found: []string{"gossip is not encrypted: see gossip-encryption"}},
		},
		{
			name: "not allowed", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true)}), Keyrings: noKeyring},
			want: Row{Status: Unknown, Found: []string{"the keys of the datacenter's nodes: the token may not read it"}, Needs: `keyring = "read"`},
		},
		{
			name: "written", in: Input{Running: noAgent, Keyrings: noKeyring}, disk: `encrypt = "` + keyA + `"`,
			want: Row{Status: Unknown, Needs: `keyring = "read"`,
				Found: []string{"DIR/a.hcl:1: encrypt is a key of 32 bytes", "the keys of the datacenter's nodes: the token may not read it"}},
		},
		{
			name: "nodes that do not answer", in: Input{Running: agentRuns(consul.Running{GossipEncrypted: new(true)}),
				Keyrings: Unseen[[]consul.Keyring]("status 500: 0/1 nodes reported success", "")},
			want: Row{Status: Unknown, Needs: needsEveryNode,
				Found: []string{"the keys of the datacenter's nodes: status 500: 0/1 nodes reported success"}},
		},
		{
			name: "short one written", in: Input{Running: noAgent, Keyrings: noKeyring}, disk: `encrypt = "` + keyShort + `"`,
			want: Row{Status: Fail, Found: []string{"DIR/a.hcl:1: encrypt is a key of 16 bytes"}, Remedy: weakKeyRemedy},
		},
		{
			name: "no key written", in: Input{Running: noAgent}, disk: `encrypt = "` + keyBroken + `"`,
			want: Row{Status: Fail, Found: []string{"DIR/a.hcl:1: encrypt is no key: it is not base64"}, Remedy: weakKeyRemedy},
		},
	} {
		c.run(t, catalog.GossipKey)
	}
}

// TestDoubted: after a reload a newer agent tells what its files say, and what stood in them before is not to be seen.
func TestDoubted(t *testing.T) {
	verified := func(version string) Input {
		return Input{Running: agentRuns(hardened(version)), Keyrings: noKeyring}
	}
	changed := filesChanged(verified("1.21.0"), time.Hour)
	rewritten := verified("1.21.0")
	rewritten.Rewritten = Known([]string{"/etc/consul.d/a.hcl"})
	flagged := filesChanged(verified("1.21.0"), time.Hour)
	flagged.Process.Value.Flags = []string{"client", "http-port"}
	denying := filesChanged(verified("1.21.0"), time.Hour)
	denying.Running.Value.DefaultIntentionPolicy = new("deny")
	const service = `service { name = "web" }`
	for _, test := range []struct {
		name, disk string
		in         Input
		id         catalog.ID
		want       Status
		found      string // in the last sentence
	}{
		{"taken out of a file", `log_level = "info"`, changed, catalog.GossipVerify, Unknown,
			"DIR/a.hcl was changed after the agent was started, and may have said something of encrypt_verify_incoming before; "},
		{"taken out, and nothing left", `# nothing`, changed, catalog.APIHTTP, Unknown, "may have said something of ports.http before; "},
		{"a file of services", service, changed, catalog.GossipVerify, Pass, "encrypt_verify_outgoing = true"},
		{"a file of services and settings", service + "\nlog_level = \"info\"", changed, catalog.GossipVerify, Unknown, "may have said"},
		{"not changed", `log_level = "info"`, filesChanged(verified("1.21.0"), 0), catalog.GossipVerify, Pass, "true"},
		{"changed, before reloads were shown", `log_level = "info"`, filesChanged(verified("1.13.9"), time.Hour), catalog.GossipVerify, Pass, "true"},
		{"the mesh, of which servers say nothing", "connect { enabled = true }", changed, catalog.CAEnabled, Unknown, "DIR/a.hcl sets connect.enabled and was changed"},
		{"intentions by ACLs", `acl { default_policy = "deny" }`, changed, catalog.IntentionDefault, Unknown, "DIR/a.hcl sets acl.default_policy and was"},
		{"intentions", `default_intention_policy = "deny"`, denying, catalog.IntentionDefault, Unknown, "DIR/a.hcl sets default_intention_policy and was"},
		{"files are not read", "", rewritten, catalog.GossipVerify, Unknown, "/etc/consul.d/a.hcl was changed after the agent was started, "},
		{"flags stand over all", `log_level = "info"`, flagged, catalog.APIHTTP, Unknown, "may have said something of addresses.http before; "},
		{"restart pending", `log_level = "info"`, changed, catalog.RestartPending, Unknown,
			"DIR/a.hcl was changed after the agent was started, and what it said before is not known"},
		{"restart pending, services alone", service, changed, catalog.RestartPending, Pass, "the files set nothing else than the agent tells"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in, dir := test.in, ""
			in.ConfigFiles.Value = slices.Clone(in.ConfigFiles.Value)
			if test.disk != "" {
				in.Disk, dir = transportDisk(t, test.disk)
			}
			for i := range in.ConfigFiles.Value {
				in.ConfigFiles.Value[i].Path = strings.Replace(in.ConfigFiles.Value[i].Path, "DIR", dir, 1)
			}
			row := transportRow(t, in, test.id)
			last := row.Found[len(row.Found)-1]
			if row.Status != test.want || !strings.Contains(last, strings.Replace(test.found, "DIR", dir, 1)) {
				t.Errorf("%+v", row)
			}
		})
	}
}

// TestReadRewritten: of files that may hold secrets no more is looked at than when they were changed.
func TestReadRewritten(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.hcl", "b.json", "notes.txt", "c.hcl"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.hcl"), 0o600); err != nil {
		t.Fatal(err)
	}
	paths := func(names ...string) (all []string) {
		for _, name := range names {
			all = append(all, filepath.Join(dir, name))
		}
		return all
	}
	for _, test := range []struct {
		name    string
		paths   []string
		started time.Time
		want    []string
		known   bool
	}{
		{"a folder", []string{dir}, time.Now().Add(-time.Hour), paths("a.hcl", "b.json", "c.hcl", "fifo.hcl"), true},
		{"files", paths("fifo.hcl", "a.hcl"), time.Now().Add(-time.Hour), paths("fifo.hcl", "a.hcl"), true},
		{"none since", []string{dir}, time.Now().Add(time.Hour), nil, true},
		{"missing", paths("nothing"), time.Now().Add(-time.Hour), nil, false},
		{"nobody knows since when", []string{dir}, time.Time{}, nil, false},
	} {
		l := looking{in: &Input{Process: Known(Process{Started: test.started})}, started: started{paths: test.paths}}
		got := l.readRewritten(t.TempDir())
		if got.Known != test.known || !slices.Equal(got.Value, test.want) {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}
