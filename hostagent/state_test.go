// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/firewall"
)

// sampleState is a state in which every field is set.
func sampleState() *Saved {
	return &Saved{
		Version: "1.2.3", Machine: "abc", NodeID: "11111111-2222-3333-4444-555555555555", DataDir: "/nowhere/consul",
		Range: DefaultSidecarRange(), Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000, 21003), Cut: firewall.Ports(8080),
		Limited: true, Sources: prefixes("10.0.0.0/8 172.17.0.0/16"), AllowFrom: prefixes("10.0.0.0/8"), AllowCluster: true, AllowBridges: true,
	}
}

func mustEncode(t testing.TB, s *Saved) []byte {
	t.Helper()
	data, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// crowdedState has as many ports and sources as there can be.
func crowdedState() *Saved {
	s := sampleState()
	s.Sources = nil
	for i := range 65536 {
		s.Sources = append(s.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32))
	}
	for i := range 65536 {
		s.Sources = append(s.Sources, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, byte(i >> 8), byte(i), 0x11, 0x11}), 128))
	}
	s.AllowFrom = s.Sources
	for port := uint16(1); port < 65535; port += 2 {
		s.Guard.Add(port)
	}
	return s
}

func TestStateRoundTrip(t *testing.T) {
	for name, s := range map[string]*Saved{
		"everything":  sampleState(),
		"next to nil": {Machine: "abc"},
		"one port":    {Machine: "abc", Range: PortRange{21000, 21000}},
		"crowded":     crowdedState(),
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made", "state")
			if err := SaveState(dir, s); err != nil {
				t.Fatal(err)
			}
			got, err := LoadState(dir)
			if err != nil {
				t.Fatal(err)
			}
			if !s.equal(got) || s.Version != got.Version {
				t.Errorf("another state comes back:\n%+v\nwant\n%+v", got, s)
			}
			for path, mode := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, stateFile): 0o600} {
				if info, err := os.Stat(path); err != nil || info.Mode() != mode {
					t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, mode)
				}
			}
			if err := errors.Join(RemoveState(dir), RemoveState(dir)); err != nil {
				t.Error(err)
			}
			if _, err := LoadState(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a removed state: %v", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	if err := RemoveState(filepath.Join(t.TempDir(), "missing")); err != nil {
		t.Errorf("a folder that was never made: %v", err)
	}
}

// sealed is a file whose checksum is right for content, whatever that is.
func sealed(content []byte) []byte {
	return fmt.Appendf(nil, `{"version": 1, "checksum": %q, "state": %s}`, checksum(content), content)
}

// edited is a file whose content was changed and sealed again.
func edited(t testing.TB, key string, value any) []byte {
	t.Helper()
	var envelope stateEnvelope
	var content map[string]any
	if err := errors.Join(json.Unmarshal(mustEncode(t, sampleState()), &envelope), json.Unmarshal(envelope.State, &content)); err != nil {
		t.Fatal(err)
	}
	content[key] = value
	data, err := json.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	return sealed(data)
}

func TestDamagedStates(t *testing.T) {
	good := mustEncode(t, sampleState())
	if _, err := decodeState(good); err != nil {
		t.Fatal(err)
	}
	if _, err := decodeState(edited(t, "open", "21000")); err != nil {
		t.Fatalf("editing damages by itself: %v", err)
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":                   {nil, errDamaged},
		"torn":                    {good[:len(good)/2], errDamaged},
		"without its end":         {good[:len(good)-2], errDamaged},
		"zeros":                   {make([]byte, len(good)), errDamaged},
		"twice":                   {append(bytes.Clone(good), good...), errDamaged},
		"null":                    {[]byte("null"), errDamaged},
		"a list":                  {[]byte("[]"), errDamaged},
		"version 0":               {bytes.Replace(good, []byte(`"version":1`), []byte(`"version":0`), 1), errDamaged},
		"version 3":               {[]byte(`{"version": 3, "anything": {}}`), errNewer},
		"a port edited":           {bytes.Replace(good, []byte("21000-21255"), []byte("21000-21254"), 1), errDamaged},
		"a blank more":            {bytes.Replace(good, []byte(`"limited":true`), []byte(`"limited": true`), 1), errDamaged},
		"no checksum":             {bytes.Replace(good, []byte(`"checksum"`), []byte(`"checksun"`), 1), errDamaged},
		"unknown key":             {edited(t, "extra", 1), errDamaged},
		"port 0":                  {edited(t, "open", "0"), errDamaged},
		"port 65536":              {edited(t, "open", "65536"), errDamaged},
		"ports out of order":      {edited(t, "open", "21001, 21000"), errDamaged},
		"ports inverted":          {edited(t, "guard", "21255-21000"), errDamaged},
		"ports with a sign":       {edited(t, "guard", "+21000"), errDamaged},
		"no ports":                {edited(t, "guard", ""), errDamaged},
		"ports of another type":   {edited(t, "guard", 21000), errDamaged},
		"cut is rubbish":          {edited(t, "cut", "x"), errDamaged},
		"range with a gap":        {edited(t, "sidecar_range", "21000, 21002"), errDamaged},
		"range too large":         {edited(t, "sidecar_range", "20000-65535"), errDamaged},
		"no machine":              {edited(t, "machine", ""), errDamaged},
		"machine drives terminal": {edited(t, "machine", "\x1b[2J"), errDamaged},
		"a long node id":          {edited(t, "consul_node_id", strings.Repeat("1", 201)), errDamaged},
		"a relative folder":       {edited(t, "consul_data_dir", "data"), errDamaged},
		"a folder with dots":      {edited(t, "consul_data_dir", "/var/../etc"), errDamaged},
		"sources with host bits":  {edited(t, "sources", []string{"10.0.0.1/8"}), errDamaged},
		"sources out of order":    {edited(t, "sources", []string{"11.0.0.0/8", "10.0.0.0/8"}), errDamaged},
		"sources twice":           {edited(t, "sources", []string{"10.0.0.0/8", "10.0.0.0/8"}), errDamaged},
		"sources that are none":   {edited(t, "sources", []string{"everybody"}), errDamaged},
		"an empty source":         {edited(t, "sources", []string{""}), errDamaged},
		"mapped sources":          {edited(t, "sources", []string{"::ffff:10.0.0.0/104"}), errDamaged},
		"sources without a limit": {edited(t, "limited", false), errDamaged},
		"allow_from not in order": {edited(t, "allow_from", []string{"11.0.0.0/8", "10.0.0.0/8"}), errDamaged},
	} {
		if _, err := decodeState(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// Whichever byte is another one, the state is refused, or still says the same.
	for i := range good {
		changed := bytes.Clone(good)
		changed[i] ^= 0x20
		if s, err := decodeState(changed); err == nil && !s.equal(sampleState()) {
			t.Errorf("byte %d may be changed: %s", i, changed)
		}
	}
}

func TestUnsafeStatesAreRefused(t *testing.T) {
	elsewhere := t.TempDir()
	if err := SaveState(elsewhere, sampleState()); err != nil {
		t.Fatal(err)
	}
	other := os.Geteuid() + 1
	for name, c := range map[string]struct {
		spoil func(dir, file string) error
		want  string
		saves bool // the file is replaced, whatever it is
		root  bool
	}{
		"folder that others may write": {spoil: func(dir, _ string) error { return os.Chmod(dir, 0o777) }, want: "others may write"},
		"folder of a group":            {spoil: func(dir, _ string) error { return os.Chmod(dir, 0o770) }, want: "others may write"},
		"folder of somebody else":      {spoil: func(dir, _ string) error { return os.Chown(dir, other, -1) }, want: "which hostagent runs as: run it as that user", root: true},
		"folder is a link": {spoil: func(dir, _ string) error {
			return errors.Join(os.RemoveAll(dir), os.Symlink(elsewhere, dir))
		}, want: "symbolic link"},
		"folder is a file": {spoil: func(dir, _ string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600))
		}, want: "wrong kind"},
		"file that others may write": {spoil: func(_, file string) error { return os.Chmod(file, 0o666) }, want: "others may write", saves: true},
		"file of somebody else":      {spoil: func(_, file string) error { return os.Chown(file, other, -1) }, want: "which hostagent runs as: run it as that user", saves: true, root: true},
		"file is a link": {spoil: func(_, file string) error {
			return errors.Join(os.Remove(file), os.Symlink(filepath.Join(elsewhere, stateFile), file))
		}, want: "symbolic link", saves: true},
		"file is a FIFO": {spoil: func(_, file string) error {
			return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600))
		}, want: "wrong kind", saves: true},
		"file is a folder": {spoil: func(_, file string) error {
			return errors.Join(os.Remove(file), os.Mkdir(file, 0o700))
		}, want: "wrong kind"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Log("not as an ordinary user, who cannot give files away")
				return
			}
			dir := filepath.Join(t.TempDir(), "state")
			file := filepath.Join(dir, stateFile)
			if err := errors.Join(SaveState(dir, sampleState()), c.spoil(dir, file)); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{dir, dir + "/"} {
				if _, err := LoadState(path); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("LoadState(%s): %v, want %q", path, err, c.want)
				}
			}
			changed := sampleState()
			changed.Open = firewall.Ports(21255)
			if err := SaveState(dir, changed); (err == nil) != c.saves {
				t.Errorf("SaveState: %v", err)
			}
			if got, err := LoadState(dir); c.saves && (err != nil || !got.equal(changed)) {
				t.Errorf("after it was saved anew: %v, %v", got, err)
			}
			if got, err := LoadState(elsewhere); err != nil || !got.equal(sampleState()) {
				t.Errorf("what the link led to was changed: %v", err)
			}
		})
	}
}

// TestRootRemovesTheServicesState: the service runs as a user of its own, and root takes away what it has left.
func TestRootRemovesTheServicesState(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("not as an ordinary user, who cannot give files away")
		return
	}
	elsewhere, dir := filepath.Join(t.TempDir(), "elsewhere"), filepath.Join(t.TempDir(), "state")
	if err := errors.Join(SaveState(elsewhere, sampleState()), SaveState(dir, sampleState()), os.Chown(dir, 1234, -1)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveState(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := errors.Join(os.Remove(dir), os.Symlink(elsewhere, dir)); err != nil {
		t.Fatal(err)
	}
	if err := RemoveState(dir); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("a link in its place: %v", err)
	}
	if _, err := LoadState(elsewhere); err != nil {
		t.Errorf("what the link leads to: %v", err)
	}
}

func TestStaleHalfWrittenStatesGo(t *testing.T) {
	dir := t.TempDir()
	old, young := filepath.Join(dir, stateFile+".OLD"), filepath.Join(dir, stateFile+".YOUNG")
	for _, path := range []string{old, young, filepath.Join(dir, "else")} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Hour)
	if err := errors.Join(os.Chtimes(old, past, past), os.Chtimes(filepath.Join(dir, "else"), past, past), SaveState(dir, sampleState())); err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want(t, "the folder", "else state.json state.json.YOUNG", strings.Join(names, " "))
}

// states are two states of different sizes, so that one torn between them is neither.
func states() [2]*Saved {
	small, large := sampleState(), sampleState()
	for i := range 4000 {
		large.Sources = append(large.Sources, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 32))
	}
	return [2]*Saved{small, large}
}

func TestConcurrentWritersLeaveOneWholeState(t *testing.T) {
	dir := t.TempDir()
	both := states()
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 20 {
				if err := SaveState(dir, both[i%2]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for reads := 0; ; reads++ {
		got, err := LoadState(dir)
		if !errors.Is(err, fs.ErrNotExist) && (err != nil || !got.equal(both[0]) && !got.equal(both[1])) {
			t.Errorf("read %d: %v", reads, err)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

const writerEnv = "HOSTAGENT_TEST_STATE_WRITER"

// TestStateWriter is no test but the process that TestKilledWriterTearsNothing kills: it saves without end.
func TestStateWriter(t *testing.T) {
	dir := os.Getenv(writerEnv)
	if dir == "" {
		return
	}
	both := states()
	for i := 0; ; i++ {
		if err := SaveState(dir, both[i%2]); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			fmt.Println("saving")
		}
	}
}

func TestKilledWriterTearsNothing(t *testing.T) {
	dir := t.TempDir()
	both := states()
	if err := SaveState(dir, both[0]); err != nil {
		t.Fatal(err)
	}
	halves := map[bool]int{}
	var left []string
	within := 5 * time.Millisecond // of the first save: in which a second one is under way, or done
	for i := 0; i < 200 || i < 2000 && (halves[false] == 0 || len(left) == 0); i++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestStateWriter$")
		cmd.Env = append(os.Environ(), writerEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 && halves[false] == 0 { // a slow disk, or the race detector
			within = min(2*within, 200*time.Millisecond)
		}
		time.Sleep(rand.N(within))
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		got, err := LoadState(dir)
		if err != nil || !got.equal(both[0]) && !got.equal(both[1]) {
			t.Fatalf("after kill -9: %v", err)
		}
		halves[got.equal(both[0])]++
		left, _ = filepath.Glob(filepath.Join(dir, stateFile+".*"))
	}
	t.Logf("found the one %d times, the other %d times; %d writers were killed half-way", halves[true], halves[false], len(left))
	if halves[false] == 0 || len(left) == 0 {
		t.Error("no writer was killed while it wrote, so nothing was proven")
	}
}

func TestMachineFingerprint(t *testing.T) {
	dir := t.TempDir()
	for text, ok := range map[string]bool{
		"3d1219c7c4c5404aaa1f6d2a48adfda4\n": true, "3d1219c7c4c5404aaa1f6d2a48adfda4": true,
		"": false, "uninitialized\n": false, "00000000000000000000000000000000\n": false, "3d1219c7\n": false,
	} {
		path := filepath.Join(dir, "machine-id")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := MachineFingerprint(path)
		if (err == nil) != ok || ok && (len(got) != 64 || strings.Contains(got, "3d1219c7")) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := MachineFingerprint(filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing file names a machine")
	}
	if _, err := MachineFingerprint(dir); err == nil {
		t.Error("a folder names a machine")
	}
}

func TestStateBelongs(t *testing.T) {
	s := sampleState()
	s.DataDir = t.TempDir()
	node := func(id string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(s.DataDir, "node-id"), []byte(id), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.belongs("abc"); err != nil {
		t.Errorf("where the node cannot be told: %v", err)
	}
	node(s.NodeID)
	if err := s.belongs("abc"); err != nil {
		t.Errorf("at home: %v", err)
	}
	if err := s.belongs("def"); !errors.Is(err, errForeign) {
		t.Errorf("on another machine: %v", err)
	}
	if err := s.belongs(""); err == nil {
		t.Error("a machine without an id takes it")
	}
	node("99999999-2222-3333-4444-555555555555")
	if err := s.belongs("abc"); !errors.Is(err, errForeign) {
		t.Errorf("on another node: %v", err)
	}
	s.NodeID = ""
	if err := s.belongs("abc"); err != nil {
		t.Errorf("of no node: %v", err)
	}
}

// FuzzState: no bytes make the decoder panic, and what it accepts comes back as it was and opens and closes nothing
// beyond the gate.
func FuzzState(f *testing.F) {
	var envelope stateEnvelope
	if err := json.Unmarshal(mustEncode(f, sampleState()), &envelope); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(envelope.State))
	f.Add(bytes.Replace(envelope.State, []byte("21000, 21003"), []byte("22, 443, 8500, 21000"), 1))
	f.Add([]byte("{}"))
	policy := base().Policy
	policy.Mode, policy.Protected = ModeGuard, firewall.Ports(22, 21007)
	policy.ExtraPorts, policy.GuardPorts = firewall.Ports(443), firewall.Ports(9000)
	policy.Quarantine = &Quarantine{Ports: firewall.Ports(8080, 22)}
	policy.AllowFrom = prefixes("10.0.0.0/16 192.168.0.0/24")
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = decodeState(data)
		s, err := decodeState(sealed(data))
		if err != nil {
			return
		}
		again, err := decodeState(mustEncode(t, s))
		if err != nil || !s.equal(again) {
			t.Fatalf("what is accepted does not come back: %v\n%s", err, data)
		}
		rules, _ := s.rules(Input{Policy: policy})
		sidecars := s.Range.Ports().Minus(consulPorts()).Minus(policy.Protected)
		none := firewall.PortSet{}
		switch {
		case rules.Open.Minus(sidecars.Union(policy.ExtraPorts)) != none, rules.Open.Minus(s.Open) != none:
			t.Errorf("opens %s", rules.Open)
		case rules.Guard.Minus(sidecars.Union(firewall.Ports(8080, 9000))) != none, rules.Guard.Minus(s.Guard) != none:
			t.Errorf("guards %s", rules.Guard)
		case rules.Cut.Minus(firewall.Ports(8080)) != none, rules.Cut.Minus(s.Cut) != none, rules.Cut.Intersect(rules.Open) != none:
			t.Errorf("cuts %s", rules.Cut)
		case rules.Open.Len() > 0 && len(rules.AllowFrom) == 0:
			t.Error("lets everybody in, where the configuration does not")
		}
		for _, source := range rules.AllowFrom {
			if s.Limited && !indexPrefixes(s.Sources).covers(source) {
				t.Errorf("lets %s in, which was not let in", source)
			}
		}
	})
}
