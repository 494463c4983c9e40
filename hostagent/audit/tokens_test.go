// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// recordedData was kept by an agent of Consul 1.21.0 whose configuration was in effect recordedConfig.
const (
	recordedData   = "../consul/datadir/testdata/data"
	recordedConfig = `acl { enabled = true, tokens {
  initial_management = "11111111-1111-4111-8111-111111111111"
  agent              = "11111111-1111-4111-8111-111111111111"
} }
service {
  name  = "filed"
  token = "22222222-2222-4222-8222-222222222222"
  connect { sidecar_service {} }
}`
)

func TestReadInstanceTokens(t *testing.T) {
	disk := asConfigured(t, recordedConfig)
	file, folder := disk.Value.Files[0], recordedData+"/services/"
	web := consul.HashSecret("33333333-3333-4333-8333-333333333333")
	filed := consul.HashSecret("22222222-2222-4222-8222-222222222222")
	want := Known([]InstanceToken{
		{ID: "anon", Name: "anon", Hash: consul.HashSecret("anonymous"), SameAs: []string{"anonymous"},
			Where: folder + "5430eeed859cad61d925097ec4f532461ccf1ab6b9802b09a313be1478a4d614"},
		{ID: "bare", Name: "bare", Where: folder + "9b828d53402d6e332ef05a2fe03063b359192571ba99fcd3b85074f46a72fd7e"},
		{ID: "def", Name: "def", Hash: consul.HashSecret("44444444-4444-4444-8444-444444444444"), SameAs: []string{"acl.tokens.default"},
			Where: folder + "cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34"},
		{ID: "filed", Name: "filed", Hash: filed, Where: file + ":5"},
		{ID: "filed-sidecar-proxy", Name: "filed-sidecar-proxy", Sidecar: true, DestinationID: "filed", DestinationName: "filed",
			Hash: filed, Where: file + ":8"},
		{ID: "mgmt", Name: "mgmt", Hash: consul.HashSecret("11111111-1111-4111-8111-111111111111"),
			SameAs: []string{"acl.tokens.agent", "acl.tokens.initial_management"},
			Where:  folder + "11b9592dcc8ee89d9a7d9ded4748538a2b5fc76c32c66f62591ea159da985fb6"},
		{ID: "web-1", Name: "web", Hash: web, Where: folder + "c4719afa76fa448b5eca99e6736885846501d17956f2fcb2de5c916d723f3a87"},
		{ID: "web-1-sidecar-proxy", Name: "web-sidecar-proxy", Sidecar: true, DestinationID: "web-1", DestinationName: "web",
			Hash: web, Where: folder + "d50896344289225d113546149fca6d0f67c8228db90d144eb0fbf9b9efaa0a1a"},
	})
	got := readInstanceTokens(recordedData, disk)
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error("(-want +got)\n" + diff)
	}

	in := guardedInput()
	in.InstanceTokens, in.Disk, in.Registrations = got, disk, Seen[[]consul.Registration]{}
	for _, secretsSeen := range []bool{true, false} {
		in.Tokens.Value.SecretsSeen = secretsSeen
		report := Evaluate(*in)
		for _, shown := range []string{fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", report)} {
			for _, digit := range "1234" {
				if strings.Contains(shown, strings.Repeat(string(digit), 8)) {
					t.Errorf("a token is in %s", shown)
				}
			}
		}
	}
}

func TestReadInstanceTokensOf(t *testing.T) {
	file := asConfigured(t, `services = [{ name = "web", token = "old" }, { name = "db", id = "db-1", token = "t" }, { name = "bare" }]`)
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "services"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"web": `{"Token":"new","Service":{"ID":"web","Service":"web"}}`, "x": `{"Token":"new`} {
		if err := os.WriteFile(filepath.Join(folder, "services", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damaged := InstanceToken{Where: filepath.Join(folder, "services/x"), Problem: "is no registration as Consul keeps it"}
	kept := InstanceToken{ID: "web", Name: "web", Hash: consul.HashSecret("new"), Where: filepath.Join(folder, "services/web")}
	at := func(id, name, token string) InstanceToken {
		return InstanceToken{ID: id, Name: name, Hash: consul.HashSecret(token), Where: file.Value.Files[0] + ":1"}
	}
	missing := filepath.Join(folder, "missing")
	for name, tt := range map[string]struct {
		dir  string
		disk Seen[*configdir.Config]
		want Seen[[]InstanceToken]
	}{
		"both":            {folder, file, Known([]InstanceToken{damaged, at("bare", "bare", ""), at("db-1", "db", "t"), kept})},
		"data alone":      {folder, Seen[*configdir.Config]{}, Known([]InstanceToken{damaged, kept})},
		"an empty folder": {t.TempDir(), file, Known([]InstanceToken{at("bare", "bare", ""), at("db-1", "db", "t"), at("web", "web", "old")})},
		"missing": {missing, Seen[*configdir.Config]{},
			Known([]InstanceToken{{Problem: fmt.Sprintf("cannot read %q: no such file or directory", missing)}})},
	} {
		if diff := gocmp.Diff(tt.want, readInstanceTokens(tt.dir, tt.disk)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// TestReadInstanceTokensUnprivileged asks as another user, who may not read the folder, whoever runs the test.
func TestReadInstanceTokensUnprivileged(t *testing.T) {
	folder := t.TempDir()
	if err := os.Chmod(folder, 0); err != nil {
		t.Fatal(err)
	}
	asked := make(chan Seen[[]InstanceToken])
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this function, and its user with it
		if os.Geteuid() == 0 {
			if err := syscall.Setfsuid(65534); err != nil {
				t.Error(err)
			}
		}
		asked <- readInstanceTokens(folder, Known(&configdir.Config{}))
	}()
	want := Unseen[[]InstanceToken](
		fmt.Sprintf("cannot read %q: permission denied; run as root, or as the user that Consul runs as", folder), asAuditor)
	if diff := gocmp.Diff(want, <-asked); diff != "" {
		t.Error("(-want +got)\n" + diff)
	}
}
