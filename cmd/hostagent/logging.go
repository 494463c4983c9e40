// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/config"
)

// newLogger writes the log to out as text or JSON, a line a record. Where out is the journal, lines begin with their
// priority instead of a time stamp, because the journal has its own (sd-daemon(3)).
func newLogger(out io.Writer, format config.LogFormat, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if !toJournal(out, os.Getenv("JOURNAL_STREAM")) {
		return slog.New(formatHandler(out, format, options))
	}
	options.ReplaceAttr = func(groups []string, attr slog.Attr) slog.Attr {
		if len(groups) == 0 && attr.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return attr
	}
	w := &priorityWriter{out: out}
	return slog.New(&journalHandler{Handler: formatHandler(w, format, options), out: w})
}

func formatHandler(out io.Writer, format config.LogFormat, options *slog.HandlerOptions) slog.Handler {
	if format == config.LogJSON {
		return slog.NewJSONHandler(out, options)
	}
	return slog.NewTextHandler(out, options)
}

// toJournal tells whether out is the stream that systemd connected to the journal: it names it in JOURNAL_STREAM as
// "device:inode" (systemd.exec(5)), and a program may have been redirected since.
func toJournal(out io.Writer, stream string) bool {
	f, ok := out.(*os.File)
	if !ok || stream == "" {
		return false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// journalHandler puts each record's priority before its line.
type journalHandler struct {
	slog.Handler
	out *priorityWriter
}

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.prefix = priority(r.Level)
	return h.Handler.Handle(ctx, r)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &journalHandler{Handler: h.Handler.WithAttrs(attrs), out: h.out}
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	return &journalHandler{Handler: h.Handler.WithGroup(name), out: h.out}
}

// priorityWriter puts a prefix before what is written; slog's handlers write a whole line at once.
type priorityWriter struct {
	mu     sync.Mutex
	prefix string
	out    io.Writer
}

func (w *priorityWriter) Write(line []byte) (int, error) {
	if _, err := w.out.Write(append([]byte(w.prefix), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}

// priority is the syslog priority of a level as the journal reads it at the beginning of a line.
func priority(level slog.Level) string {
	switch {
	case level >= slog.LevelError:
		return "<3>"
	case level >= slog.LevelWarn:
		return "<4>"
	case level >= slog.LevelInfo:
		return "<6>"
	}
	return "<7>"
}
