// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestLockClaims: a claim outlives whoever made it, as long as the folder does.
func TestLockClaims(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	for _, want := range []bool{false, true, true} {
		lock, err := AcquireLock(dir)
		if err != nil {
			t.Fatal(err)
		}
		if lock.Claimed() != want {
			t.Errorf("claimed: %v, want %v", lock.Claimed(), want)
		}
		if err := lock.Claim(); err != nil {
			t.Error(err)
		}
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	}
}

// TestLockOfTwoNames: who owns the folder could have had root write into any file of the same disk.
func TestLockOfTwoNames(t *testing.T) {
	dir := t.TempDir()
	path, err := lockPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(other, path); err != nil {
		t.Fatal(err)
	}
	lock, err := AcquireLock(dir)
	if os.Geteuid() == 0 && err == nil {
		_ = lock.Claim()
		t.Error("root takes a file of another name for its lock")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := AcquireLock(dir); err == nil {
		t.Error("a folder passes for a lock")
	}
}

// TestLockOfRoot: where another user keeps the locks, one that root makes is that user's, and one that was there is left
// alone, because that user may have put anything there.
func TestLockOfRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("NOT RUN: it gives folders away, which only root may")
		return
	}
	const other = 12345
	dir := t.TempDir()
	if err := os.Chown(dir, other, other); err != nil {
		t.Fatal(err)
	}
	owner := func(path string) uint32 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	path, err := lockPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []uint32{other, 0} {
		lock, err := AcquireLock(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := owner(path); got != want {
			t.Errorf("the lock belongs to %d, want %d", got, want)
		}
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
		if err := os.Chown(path, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
}
