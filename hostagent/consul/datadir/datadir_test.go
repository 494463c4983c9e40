// SPDX-License-Identifier: MPL-2.0

package datadir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// The tokens that were made up for the agent whose files are in testdata.
const (
	managementToken = "11111111-1111-4111-8111-111111111111"
	webToken        = "33333333-3333-4333-8333-333333333333"
	defaultToken    = "44444444-4444-4444-8444-444444444444"
)

// TestRecorded reads what an agent of Consul 1.21.0 kept: a service with a sidecar, one that was registered with a management
// token, one without a token while the agent had a default token, one without a token and one with the anonymous token while
// it had none. Of a service in its configuration files it kept nothing.
func TestRecorded(t *testing.T) {
	got, err := Read("testdata/data")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join("testdata/data/services", name) }
	want := &Data{
		Services: []Service{
			{File: file("5430eeed859cad61d925097ec4f532461ccf1ab6b9802b09a313be1478a4d614"), ID: "anon", Name: "anon",
				TokenHash: consul.HashSecret("anonymous")},
			{File: file("9b828d53402d6e332ef05a2fe03063b359192571ba99fcd3b85074f46a72fd7e"), ID: "bare", Name: "bare"},
			{File: file("cb8379ac2098aa165029e3938a51da0bcecfc008fd6795f401178647f96c5b34"), ID: "def", Name: "def",
				TokenHash: consul.HashSecret(defaultToken)},
			{File: file("11b9592dcc8ee89d9a7d9ded4748538a2b5fc76c32c66f62591ea159da985fb6"), ID: "mgmt", Name: "mgmt",
				TokenHash: consul.HashSecret(managementToken)},
			{File: file("c4719afa76fa448b5eca99e6736885846501d17956f2fcb2de5c916d723f3a87"), ID: "web-1", Name: "web",
				TokenHash: consul.HashSecret(webToken)},
			{File: file("d50896344289225d113546149fca6d0f67c8228db90d144eb0fbf9b9efaa0a1a"), ID: "web-1-sidecar-proxy",
				Name: "web-sidecar-proxy", Kind: "connect-proxy", DestinationName: "web", DestinationID: "web-1",
				TokenHash: consul.HashSecret(webToken)},
		},
		Tokens: map[string]consul.TokenHash{"acl.tokens.default": consul.HashSecret(defaultToken)},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error("(-want +got)\n" + diff)
	}
	if shown := fmt.Sprintf("%+v", got); strings.Contains(shown, "-4111-") || strings.Contains(shown, "-4333-") || strings.Contains(shown, "-4444-") {
		t.Error("a token is in " + shown)
	}
}

const secret = "5ec2e700-0000-4000-8000-000000000000"

// folderOf writes files into a data directory of the test, by name.
func folderOf(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "services"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDamaged(t *testing.T) {
	good := `{"Token":"` + secret + `","Service":{"ID":"web","Service":"web"},"Source":"remote"}`
	dir := folderOf(t, map[string]string{
		"services/a":      good,
		"services/b":      `{"Token":"` + secret + `","Service":{"ID":"db"`,
		"services/c":      `{"Token":"` + secret + `"}`,
		"services/d":      `{"Token":"` + secret + `","Service":{"ID":7}}`,
		"services/e":      `["` + secret + `"]`,
		"services/f":      "",
		"services/g":      good[:len(good)-1] + strings.Repeat(" ", maxFileSize) + "}",
		"services/h.tmp":  good,
		"acl-tokens.json": `{"agent": ["` + secret + `"]}`,
	})
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "services/i")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "services/j"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	no := "is no registration as Consul keeps it"
	path := func(name string) string { return filepath.Join(dir, "services", name) }
	want := &Data{
		Services: []Service{
			{File: path("b"), Problem: no}, {File: path("c"), Problem: no}, {File: path("d"), Problem: no}, {File: path("e"), Problem: no},
			{File: path("f"), Problem: no},
			{File: path("g"), Problem: "cannot be read: it is larger than 1 MiB"},
			{File: path("i"), Problem: "cannot be read: it is a symbolic link, as Consul makes none"},
			{File: path("j"), Problem: "cannot be read: it is not a regular file"},
			{File: path("a"), ID: "web", Name: "web", TokenHash: consul.HashSecret(secret)},
		},
		Problems: []string{fmt.Sprintf("%q holds no tokens as Consul keeps them", filepath.Join(dir, "acl-tokens.json"))},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Error("(-want +got)\n" + diff)
	}
}

func TestFolders(t *testing.T) {
	if got, err := Read(t.TempDir()); err != nil || len(got.Services) != 0 {
		t.Errorf("a fresh directory: got %v, %v; want no services", got, err)
	}
	if _, err := Read(filepath.Join(t.TempDir(), "missing")); err == nil || !strings.Contains(err.Error(), "missing\": no such file") {
		t.Errorf("a missing directory: got %v", err)
	}
	dir := t.TempDir()
	if err := os.Symlink(folderOf(t, nil), filepath.Join(dir, "services")); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("a folder of registrations that is a symbolic link was followed")
	}
}

// TestBounds holds Read to its bounds, for whoever is the agent's user fills the folder.
func TestBounds(t *testing.T) {
	dir := folderOf(t, nil)
	path := filepath.Join(dir, "services")
	for i := range maxTotalSize/maxFileSize + 2 {
		name := filepath.Join(path, fmt.Sprintf("%03d", i))
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, maxFileSize); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(dir)
	if err != nil || len(got.Services) != maxTotalSize/maxFileSize+1 || got.Services[0].Problem != "holds more than 64 MiB, of which the rest was not read" {
		t.Errorf("of many bytes: got %d services, the first %+v, %v", len(got.Services), got.Services[0], err)
	}

	dir = folderOf(t, nil)
	for i := range maxFiles + 1 {
		if err := os.WriteFile(filepath.Join(dir, "services", fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err = Read(dir)
	if err != nil || len(got.Services) != maxFiles+1 || got.Services[0].Problem != "holds more than 20000 files, of which the others were not read" {
		t.Errorf("of many files: got %d services, the first %+v, %v", len(got.Services), got.Services[0], err)
	}
}

func TestTokens(t *testing.T) {
	dir := folderOf(t, map[string]string{"acl-tokens.json": `{"agent":"a","agent_master":"b","default":"c","replication":"d",
		"config_file_service_registration":"e","dns":"f","else":7}`})
	got, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]consul.TokenHash{
		"acl.tokens.agent": consul.HashSecret("a"), "acl.tokens.agent_recovery": consul.HashSecret("b"),
		"acl.tokens.default": consul.HashSecret("c"), "acl.tokens.replication": consul.HashSecret("d"),
		"acl.tokens.config_file_service_registration": consul.HashSecret("e"), "acl.tokens.dns": consul.HashSecret("f"),
	}
	if diff := gocmp.Diff(want, got.Tokens); diff != "" {
		t.Error("(-want +got)\n" + diff)
	}
}

// FuzzRead holds Read to what it promises of any bytes in a registration: it fails over none, and a secret that is not the
// name of something shows up nowhere.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"Token":"` + secret + `","Service":{"ID":"web","Service":"web"}}`))
	f.Add([]byte(`{"token":"` + secret + `","SERVICE":{"id":"web","Proxy":null}}`))
	f.Add([]byte(`{"Token":7,"Service":null}`))
	f.Add([]byte(`[[[[`))
	f.Add([]byte("\x00"))
	dir := folderOf(f, nil)
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, "services/a"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Read(dir)
		if err != nil || len(got.Services) != 1 {
			t.Fatalf("got %+v, %v", got, err)
		}
		if s := got.Services[0]; (s.Problem == "") == (s.ID == "") {
			t.Errorf("got %+v, want an id or a problem", s)
		}
	})
}
