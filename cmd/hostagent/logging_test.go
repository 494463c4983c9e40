// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/config"
)

func logSome(log *slog.Logger) {
	log.Debug("unseen")
	log.Info("pass", "port", 21000)
	log.With("service", "web").WithGroup("g").Warn("finding opened", "time", "own")
	log.Error("step failed", "error", "line\nbreak")
}

// TestLogInTheJournal: lines carry priorities that the journal takes off, and no time of their own.
func TestLogInTheJournal(t *testing.T) {
	for format, want := range map[config.LogFormat]string{
		config.LogText: `<6>level=INFO msg=pass port=21000
<4>level=WARN msg="finding opened" service=web g.time=own
<3>level=ERROR msg="step failed" error="line\nbreak"
`,
		config.LogJSON: `<6>{"level":"INFO","msg":"pass","port":21000}
<4>{"level":"WARN","msg":"finding opened","service":"web","g":{"time":"own"}}
<3>{"level":"ERROR","msg":"step failed","error":"line\nbreak"}
`,
	} {
		out, err := os.Create(filepath.Join(t.TempDir(), "stream"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		t.Setenv("JOURNAL_STREAM", streamOf(t, out))
		logSome(newLogger(out, format, slog.LevelInfo))
		got, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", format, diff)
		}
	}
}

// TestErrorsInTheJournal: what ends the program is an error there too.
func TestErrorsInTheJournal(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	t.Setenv("JOURNAL_STREAM", streamOf(t, out))
	if status := run([]string{"skan"}, io.Discard, out); status != exitFailure {
		t.Errorf("status %d", status)
	}
	got, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	if want := "<3>hostagent: unknown command \"skan\" for \"hostagent\"; did you mean \"scan\"?\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func streamOf(t *testing.T, f *os.File) string {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// TestLogElsewhere: a stream that is not the one which systemd named gets times and no priorities.
func TestLogElsewhere(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", streamOf(t, os.Stdin))
	var out bytes.Buffer
	logSome(newLogger(&out, config.LogText, slog.LevelInfo))
	want := regexp.MustCompile(`^time=\S+ level=INFO msg=pass port=21000
time=\S+ level=WARN msg="finding opened" service=web g.time=own
time=\S+ level=ERROR msg="step failed" error="line\\nbreak"
$`)
	if !want.MatchString(out.String()) {
		t.Errorf("got\n%s", out.String())
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for stream, journal := range map[string]bool{streamOf(t, file): true, "8:12": false, "": false, "x": false} {
		if got := toJournal(file, stream); got != journal {
			t.Errorf("JOURNAL_STREAM=%q: %t, want %t", stream, got, journal)
		}
	}
}
