// SPDX-License-Identifier: MPL-2.0

package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// PortRange is the TCP ports from First to Last, both included. The zero value is no range at all: port 0 cannot be
// listened on.
type PortRange struct{ First, Last uint16 }

// String writes r as the configuration does, "80" or "80-90"; the zero value is empty.
func (r PortRange) String() string {
	switch {
	case r == PortRange{}:
		return ""
	case r.First == r.Last:
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Contains tells whether port is in r.
func (r PortRange) Contains(port uint16) bool {
	return r != PortRange{} && r.First <= port && port <= r.Last
}

// Size returns the number of ports in r: 0 for the zero value and for an inverted range.
func (r PortRange) Size() int {
	if (r == PortRange{}) || r.First > r.Last {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// noun is what an error calls r.
func (r PortRange) noun() string {
	if r.First == r.Last {
		return "port"
	}
	return "range"
}

func parsePortRange(text string) (PortRange, error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		port, err := parsePort(text)
		return PortRange{port, port}, err
	}
	if from == "" || to == "" || strings.Contains(to, "-") {
		return PortRange{}, fmt.Errorf("%s is neither a port nor a range such as \"80-90\"", quote(text))
	}
	first, err := parsePort(from)
	if err != nil {
		return PortRange{}, fmt.Errorf("range %s: %w", quote(text), err)
	}
	last, err := parsePort(to)
	if err != nil {
		return PortRange{}, fmt.Errorf("range %s: %w", quote(text), err)
	}
	r := PortRange{first, last}
	return r, checkPortRange(r)
}

// parsePort takes decimal digits only: Consul reads 010 as octal, so a leading zero has no meaning that all agree on.
func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != text {
		return 0, fmt.Errorf("%s is not a port (1 to 65535)", quote(text))
	}
	return uint16(port), nil
}

func checkPortRange(r PortRange) error {
	switch {
	case r.First > r.Last:
		return fmt.Errorf("range %q is inverted; write %q", r, PortRange{r.Last, r.First})
	case r.First == 0:
		return errors.New("port 0 is not a port (1 to 65535)")
	}
	return nil
}

// checkSidecarRange bounds what a range may claim: Consul itself accepts 20 to 65535.
func checkSidecarRange(r PortRange) error {
	if (r == PortRange{}) {
		return nil
	}
	if err := checkPortRange(r); err != nil {
		return err
	}
	if r.Size() > maxSidecarPorts {
		return fmt.Errorf("range %q has %d ports; at most %d are accepted", r, r.Size(), maxSidecarPorts)
	}
	return nil
}
