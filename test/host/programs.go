// SPDX-License-Identifier: MPL-2.0

package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	binariesEnv = "HOSTAGENT_TEST_BIN_DIR" // a folder with programs built already
	consulEnv   = "CONSUL_BIN"             // a consul binary

	module        = "github.com/hostagent/hostagent"
	consulPackage = "github.com/hashicorp/consul"
	consulVersion = "1.21.0" // of test/consul/go.mod
)

// Program is a program of this repository that hosts run.
type Program string

// The programs that Binary builds.
const (
	AppProgram       Program = "app"
	HostagentProgram Program = "hostagent"
)

func (p Program) importPath() string {
	if p == HostagentProgram {
		return module + "/cmd/hostagent"
	}
	return module + "/test/" + string(p)
}

// Prepare finds or builds Consul and the given programs, once a run, and leaves their places in the environment of this
// process (CONSUL_BIN, HOSTAGENT_TEST_BIN_DIR), for it and for what it starts. A TestMain calls it before netns.Main,
// because a first build loads modules and the test's namespaces have no way out. Where both variables are set, nothing
// is built: so tests run as a user that has no Go.
//
// It also takes the settings of the operator's own Consul (CONSUL_HTTP_TOKEN and the like) out of the environment: none
// of them may reach the agent of a test. progress receives a line now and then.
func Prepare(ctx context.Context, progress io.Writer, programs ...Program) error {
	consul, err := ConsulBinary(ctx, progress)
	if err != nil {
		return err
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "CONSUL_") {
			if err := os.Unsetenv(name); err != nil {
				return fmt.Errorf("cannot unset %s: %w", name, err)
			}
		}
	}
	if err := os.Setenv(consulEnv, consul); err != nil {
		return fmt.Errorf("cannot set %s: %w", consulEnv, err)
	}
	for i, program := range programs {
		path, err := Binary(ctx, program)
		if err != nil {
			return err
		}
		if i == len(programs)-1 {
			if err := os.Setenv(binariesEnv, filepath.Dir(path)); err != nil {
				return fmt.Errorf("cannot set %s: %w", binariesEnv, err)
			}
		}
	}
	return nil
}

// Binary returns the path of a program: in the folder HOSTAGENT_TEST_BIN_DIR where that is set, else built with go build
// (again in 0.3 s where nothing changed) into a folder of this checkout in the user's cache.
func Binary(ctx context.Context, program Program) (string, error) {
	if dir := os.Getenv(binariesEnv); dir != "" {
		path := filepath.Join(dir, string(program))
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("cannot find program %q in %s: %w (name it in Prepare, or build it there)", program, binariesEnv, err)
		}
		return path, nil
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir, err := cacheDir(fmt.Sprintf("test-bin-%x", sha256.Sum256([]byte(root)))[:24])
	if err != nil {
		return "", err
	}
	unlock, err := waitLock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	path := filepath.Join(dir, string(program))
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, program.importPath())
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build program %q: %w\n%s", program, err, out)
	}
	return path, nil
}

// ConsulBinary returns the path of a consul binary: CONSUL_BIN, else the one on PATH, else the one built from
// test/consul, which is kept in the user's cache. The first build takes minutes: progress gets a line every 10 s.
func ConsulBinary(ctx context.Context, progress io.Writer) (string, error) {
	if path := os.Getenv(consulEnv); path != "" {
		// LookPath also makes sure that it can be executed; the answer must hold in another working directory.
		path, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("cannot use consul of %s: %w", consulEnv, err)
		}
		return filepath.Abs(path)
	}
	if path, err := exec.LookPath("consul"); err == nil {
		return filepath.Abs(path)
	}
	dir, err := cacheDir("")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "consul-"+consulVersion)
	if err := buildConsul(ctx, progress, path); err != nil {
		return "", fmt.Errorf("cannot build consul (set %s to one that is there): %w", consulEnv, err)
	}
	return path, nil
}

func buildConsul(ctx context.Context, progress io.Writer, path string) error {
	unlock, err := waitLock(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "building consul %s once, into %s: the first build takes about 5 minutes on 2 cores\n", consulVersion, path)
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(temp) // where the build failed half-way; after the rename there is none
	cmd := exec.CommandContext(ctx, "go", "build", "-o", temp, consulPackage)
	cmd.Dir = filepath.Join(root, "test", "consul")
	if err := runShowing(cmd, progress, "building consul", 10*time.Second); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

// runShowing runs cmd and writes a line with the time that it took so far at each interval.
func runShowing(cmd *exec.Cmd, progress io.Writer, what string, interval time.Duration) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			fmt.Fprintf(progress, "%s: %v\n", what, time.Since(start).Round(time.Second))
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("%w\n%s", err, out.Bytes())
			}
			fmt.Fprintf(progress, "%s: done after %v\n", what, time.Since(start).Round(time.Second))
			return nil
		}
	}
}

// waitLock takes the lock on the file at path, waiting for whoever builds there already: other test binaries do.
func waitLock(ctx context.Context, path string) (unlock func(), err error) {
	for ticker := time.Tick(100 * time.Millisecond); ; {
		file, err := tryLock(path)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-ticker:
		}
	}
}

// cacheDir makes a folder of ours in the user's cache. Applications run as other users too, so it can be passed through.
func cacheDir(name string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot find the user's cache: %w", err)
	}
	dir := filepath.Join(cache, "hostagent", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make cache folder: %w", err)
	}
	return dir, nil
}

// moduleRoot finds the checkout from the working directory, which go test sets to the package's folder.
func moduleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("cannot find the working directory: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		ours, err := isModule(filepath.Join(dir, "go.mod"))
		if err != nil {
			return "", err
		}
		if ours {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("cannot find module %s from %q upwards: run inside a checkout, or set %s and %s",
				module, start, binariesEnv, consulEnv)
		}
	}
}

// isModule tells whether the go.mod at path is this module's: test/consul has one of its own.
func isModule(path string) (bool, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read go.mod: %w", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == "module "+module {
			return true, nil
		}
	}
	return false, nil
}
