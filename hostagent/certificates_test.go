// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Each change of the certificates is one line, and a file that cannot be used is one line a minute.
func TestCertificatesAreTold(t *testing.T) {
	var log strings.Builder
	var changes int
	var broken error
	a := NewAgent(Parts{
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, attr slog.Attr) slog.Attr {
			if attr.Key == slog.TimeKey || attr.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return attr
		}})),
		Certificates: func() (int, error) { return changes, broken },
	})
	now := time.Now()
	pass := func(after time.Duration) string {
		log.Reset()
		now = now.Add(after)
		a.tellCertificates(now)
		return strings.TrimSpace(log.String())
	}
	const replaced, failed = `msg="certificates for Consul were replaced on disk and are in use now"`,
		`msg="step failed, the last good state stands" step=certificates error="it is empty"`
	got := []string{pass(0)}
	changes = 1
	got = append(got, pass(time.Second), pass(time.Second))
	broken = errors.New("it is empty")
	got = append(got, pass(time.Second), pass(time.Second))
	a.publish(now, nil, nil)
	if told := a.Status().Degradations; len(told) == 0 || told[0] != "it is empty" {
		t.Errorf("status tells %q", told)
	}
	got = append(got, pass(time.Minute))
	broken, changes = nil, 2
	got = append(got, pass(time.Second))
	changes = 0 // a reload made another client
	got = append(got, pass(time.Second))
	changes = 1
	got = append(got, pass(time.Second))
	want := []string{"", replaced, "", failed, "", failed, replaced + "\nmsg=recovered step=certificates", "", replaced}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	a.parts.Certificates = nil
	pass(0)
}
