// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What writes secrets into pods swaps a link to a folder, and what templates them renames a file: the next request has the
// new token, without a moment in between that fails.
func TestTokenFileRotatesWhole(t *testing.T) {
	rotated := strings.Replace(secret, "6ba7", "7ba6", 1)
	for name, link := range map[string]bool{"rename": false, "swapped link": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "token")
			put := func(version, token string) {
				t.Helper()
				if !link {
					must(os.WriteFile(filepath.Join(dir, version), []byte(token+"\n"), 0o600))
					must(os.Rename(filepath.Join(dir, version), path))
					return
				}
				must(os.MkdirAll(filepath.Join(dir, version), 0o700))
				must(os.WriteFile(filepath.Join(dir, version, "token"), []byte(token), 0o600))
				must(os.Symlink(version, filepath.Join(dir, "..new"+version)))
				must(os.Rename(filepath.Join(dir, "..new"+version), filepath.Join(dir, "..data")))
			}
			put("v0", secret)
			if link {
				must(os.Symlink("..data/token", path))
			}
			url, got := spy(t)
			c := newClient(t, Config{Address: url, TokenFile: path})
			for i, token := range []string{rotated, secret, rotated} {
				put("v"+string(rune('1'+i)), token)
				if _, err := c.Services(t.Context()); err != nil {
					t.Fatal(err)
				}
				if last := (*got)[len(*got)-1]; last.Token != token {
					t.Errorf("rotation %d: sent another token", i)
				}
			}
			// Swapped without pause, while it is read.
			stop, done := make(chan bool), make(chan bool)
			go func() {
				defer close(done)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
						put("w"+time.Duration(i).String(), secret)
					}
				}
			}()
			for range 100 {
				if _, err := c.Services(t.Context()); err != nil {
					t.Error(err)
				}
			}
			close(stop)
			<-done
		})
	}
}

func TestTokenFileThatIsAToken(t *testing.T) {
	for _, path := range []string{secret, "./" + strings.ToUpper(secret)} {
		_, err := New(Config{TokenFile: path})
		checkError(t, err, KindToken, "looks like a token and not like the path of a file (not shown)")
		if strings.Contains(strings.ToLower(err.Error()), secret[:8]) || exposedTokenFile(path) != "" {
			t.Errorf("shown: %v", err)
		}
	}
}

func TestExposedTokenFile(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "token"), filepath.Join(dir, "link")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("token", link); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		file, folder os.FileMode
		exposed      bool
	}{{0o600, 0o755, false}, {0o640, 0o755, false}, {0o644, 0o755, true}, {0o602, 0o711, true}, {0o644, 0o700, false}, {0o644, 0o750, false}} {
		if err := os.Chmod(path, tt.file); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, tt.folder); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, link} {
			got := exposedTokenFile(name)
			if want := "chmod 0600 \"" + path + "\""; (got != "") != tt.exposed || tt.exposed && !strings.Contains(got, want) || strings.Contains(got, secret[:8]) {
				t.Errorf("%s with %#o in %#o: %q", filepath.Base(name), tt.file, tt.folder, got)
			}
		}
	}
	if got := exposedTokenFile(filepath.Join(dir, "none")) + exposedTokenFile(""); got != "" {
		t.Errorf("no file: %q", got)
	}
}
