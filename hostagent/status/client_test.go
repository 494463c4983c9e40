// SPDX-License-Identifier: MPL-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

func TestAsk(t *testing.T) {
	want := sample(3)
	want.Findings[0].Severity, want.Findings[2].Severity = catalog.Critical, catalog.Info
	want.Firewall.LastChange = nil
	_, path := startStatus(t, want, defaultLimits())
	got, err := Ask(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the status differs (-want +got):\n%s", diff)
	}
	body, err := Fetch(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(body) || !strings.HasPrefix(string(body), `{"schema_version":1,`) || !strings.HasSuffix(string(body), "}\n") {
		t.Errorf("the document is not as sent: %.60q…", body)
	}
}

// TestAskBeforeTheFirstPass asks an Agent that has done nothing: all there is can be read back.
func TestAskBeforeTheFirstPass(t *testing.T) {
	want := hostagent.NewAgent(hostagent.Parts{}).Status()
	_, path := startStatus(t, want, defaultLimits())
	got, err := Ask(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the status differs (-want +got):\n%s", diff)
	}
}

func TestAskNotRunning(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	leave(t, left)
	for _, path := range []string{left, filepath.Join(dir, "none"), filepath.Join(dir, "no", "folder")} {
		_, err := Ask(t.Context(), path)
		down, ok := errors.AsType[*NotRunningError](err)
		if !ok || down.Path != path {
			t.Errorf("%s: %v, want a *NotRunningError", filepath.Base(path), err)
			continue
		}
		for _, part := range []string{"hostagent is not running on this host", path, "hostagent run"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q lacks %q", filepath.Base(path), err, part)
			}
		}
	}
}

func TestAskAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ path, want string }{
		{path, "it is no socket of hostagent"},
		{path + "/below", "it is no socket of hostagent"},
		{"", "empty path"},
		{"/" + strings.Repeat("x", 200), "the kernel takes 107"},
	} {
		_, err := Ask(t.Context(), test.path)
		if _, down := errors.AsType[*NotRunningError](err); err == nil || down || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Ask(%.40q): %v, want %q", test.path, err, test.want)
		}
	}
}

// impostor answers each connection with answer, or, where it is nil, never.
func impostor(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if answer == nil {
				defer c.Close()
				continue
			}
			answer(c)
			c.Close()
		}
	}()
	return path
}

// says answers every request with an HTTP response.
func says(code int, body string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Read(make([]byte, 4096))
		fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nLocation: http://localhost/elsewhere\r\nConnection: close\r\n\r\n%s", code, http.StatusText(code), body)
	}
}

func TestAskSomebodyElse(t *testing.T) {
	const none = "what answers there is no hostagent"
	for _, test := range []struct {
		name   string
		answer func(net.Conn)
		want   string
	}{
		{"no HTTP", func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)); fmt.Fprint(c, "220 \x1b[31mmail.example.com\r\n") }, none},
		{"not found", says(404, "nothing here"), "it answers with status 404"},
		{"a redirect", says(302, ""), "it answers with status 302"},
		{"no JSON", says(200, "<html>\x1b[31m"), none},
		{"half a document", says(200, `{"schema_version": 1, "hostagent_version": "1"`), none},
		{"two documents", says(200, `{"schema_version": 1, "hostagent_version": "1"}{}`), none},
		{"a list", says(200, `[1]`), none},
		{"null", says(200, `null`), "no schema_version and hostagent_version"},
		{"another program's", says(200, `{"version": "1"}`), "no schema_version and hostagent_version"},
		{"half of what tells", says(200, `{"schema_version": 1}`), "no schema_version and hostagent_version"},
		{"version 0", says(200, `{"schema_version": 0, "hostagent_version": "1"}`), none},
		{"another shape", says(200, `{"schema_version": 1, "hostagent_version": "1", "openings": 7}`), none},
		{"an unknown severity", says(200, `{"schema_version": 1, "hostagent_version": "1", "findings": [{"severity": "dire"}]}`), none},
		{"a newer version", says(200, `{"schema_version": 2, "hostagent_version": "1", "openings": 7}`),
			"it has schema version 2 and this program knows 1; upgrade this hostagent"},
		{"too much", func(c net.Conn) {
			says(200, "{")(c)
			for chunk := make([]byte, 1<<20); ; {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		}, "it answers with more than 33554432 bytes"},
		{"too many", func(net.Conn) {}, "too many ask at once; try again"},
		{"too long a header", func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 64<<10)+"\r\n\r\n")
		}, "its header has more than 16384 bytes"},
		{"a long line", func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, strings.Repeat("x", 8<<10)+"\r\n")
		}, none},
	} {
		path := impostor(t, test.answer)
		got, err := Ask(t.Context(), path)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) || strings.ContainsRune(err.Error(), '\x1b') || len(err.Error()) > 500 {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if _, down := errors.AsType[*NotRunningError](err); down {
			t.Errorf("%s: a *NotRunningError", test.name)
		}
		if diff := cmp.Diff(hostagent.Status{}, got); diff != "" {
			t.Errorf("%s: half a status beside the error:\n%s", test.name, diff)
		}
	}
}

// TestFetchOfANewerVersion hands a program what it asked for: it reads the version itself.
func TestFetchOfANewerVersion(t *testing.T) {
	const document = `{"schema_version": 2, "hostagent_version": "9"}`
	got, err := Fetch(t.Context(), impostor(t, says(200, document)))
	if err != nil || string(got) != document {
		t.Errorf("Fetch = %q, %v", got, err)
	}
}

func TestAskAHangingOne(t *testing.T) {
	path := impostor(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Ask(ctx, path)
	if err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "restart it if it hangs") {
		t.Errorf("%v, want a deadline with a remedy", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := Ask(ctx, path); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "hangs") {
		t.Errorf("%v, want a cancelled context", err)
	}
}

func TestAskHasADeadlineOfItsOwn(t *testing.T) {
	t.Parallel() // it waits
	path := impostor(t, nil)
	start := time.Now()
	if _, err := Ask(t.Context(), path); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*askTimeout {
		t.Errorf("%v after %s, want a deadline", err, time.Since(start))
	}
}

func TestAskABusyOne(t *testing.T) {
	server, path := startStatus(t, sample(1), patient(1))
	dial(t, server.Addr())
	eventually(t, "the place is taken", func() bool { return connections(server) == 1 })
	for range 20 { // how the refusal looks depends on who is faster
		if _, err := Ask(t.Context(), path); err == nil || !strings.Contains(err.Error(), "too many ask at once; try again") {
			t.Fatalf("%v, want that it is busy", err)
		}
	}
}

// TestBusyInAllItsForms gives what connecting, asking and reading can meet when the other side closes at once.
func TestBusyInAllItsForms(t *testing.T) {
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET, syscall.EAGAIN} {
		err = &net.OpError{Op: "write", Net: "unix", Err: os.NewSyscallError("write", err)}
		if got := askFailure("/s", err); !errors.Is(got, err) || !strings.Contains(got.Error(), "try again") {
			t.Errorf("%v becomes %v", err, got)
		}
	}
}

const askEnv = "HOSTAGENT_TEST_ASK" // the path to ask for, in a process of another user

// TestAskWithoutPermission asks as somebody who may not; as root that takes another process.
func TestAskWithoutPermission(t *testing.T) {
	if path := os.Getenv(askEnv); path != "" {
		_, err := Ask(t.Context(), path)
		fmt.Printf("%v: %t\n", err, errors.Is(err, fs.ErrPermission))
		return
	}
	dir, err := os.MkdirTemp("", "status")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ask := func() string {
		c := exec.Command("/proc/self/exe", "-test.run=^TestAskWithoutPermission$")
		c.Env = append(os.Environ(), askEnv+"="+path)
		if os.Geteuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	group, want := os.Getegid(), "or as a member of group"
	if os.Geteuid() == 0 {
		group, want = 4242, `or as a member of group "4242"` // that has no name
	}
	for _, step := range []struct {
		name       string
		dir, mode  fs.FileMode
		gid        int
		want, lack string
	}{
		{"the socket", 0o755, 0o060, group, "permission denied; run as root " + want, ""},
		{"a socket of nobody's", 0o755, 0, group, "permission denied; run as root", "member"},
		{"the folder", 0, 0o660, group, "permission denied; run as root", "member"},
	} {
		if err := errors.Join(os.Chown(path, -1, step.gid), os.Chmod(path, step.mode), os.Chmod(dir, step.dir)); err != nil {
			t.Fatal(err)
		}
		got := ask()
		if !strings.Contains(got, step.want) || !strings.Contains(got, ": true") || !strings.Contains(got, path) ||
			step.lack != "" && strings.Contains(got, step.lack) {
			t.Errorf("%s: %s, want %q and not %q", step.name, got, step.want, step.lack)
		}
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o660)); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, -1, 0); err != nil {
			t.Fatal(err)
		}
		if got := ask(); strings.Contains(got, "member") {
			t.Errorf("%s advises to become a member of root's own group", got)
		}
	}
}
