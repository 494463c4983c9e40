// SPDX-License-Identifier: MPL-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/agext/levenshtein"
)

var (
	chainName = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]*$`)
	nftName   = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./\\]*$`)
	dnsLabel  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

// findingExposedListener is the id of the finding that quarantine acts on unless it is told otherwise.
const findingExposedListener = "exposed-listener"

// quarantineFindings are the ids of those that it can act on.
func quarantineFindings() []string {
	return []string{findingExposedListener, "exposed-sibling", "exposed-upstream", "exposed-admin"}
}

func anything[T any](T) error { return nil }

func asText(text string) (string, error) { return text, nil }

func asSecret(text string) (Secret, error) { return Secret(text), nil }

func logLevel(c *Config) *slog.Level { return &c.LogLevel }

func iptablesVariant(c *Config) *IptablesVariant { return &c.Firewall.IptablesVariant }

// oneOf parses one of the known words.
func oneOf[T ~string](known ...T) func(string) (T, error) {
	check := checkOneOf(known...)
	return func(text string) (T, error) { return T(text), check(T(text)) }
}

func checkOneOf[T ~string](known ...T) func(T) error {
	return func(value T) error {
		if slices.Contains(known, value) {
			return nil
		}
		words := make([]string, len(known))
		for i, word := range known {
			words[i] = string(word)
		}
		return UnknownWord(string(value), words)
	}
}

// unlessZero lets the zero value pass, for keys that may be unset.
func unlessZero[T comparable](check func(T) error) func(T) error {
	return func(value T) error {
		var zero T
		if value == zero {
			return nil
		}
		return check(value)
	}
}

// UnknownWord is the error for got where one of known was to be written. It names the one that was most likely meant.
func UnknownWord(got string, known []string) error {
	if guess := cmp.Or(Closest(got, known), onlyPart(got, known)); guess != "" {
		return fmt.Errorf("unknown value %s; did you mean %q?", quote(got), guess)
	}
	quoted := make([]string, len(known))
	for i, word := range known {
		quoted[i] = strconv.Quote(word)
	}
	return fmt.Errorf("unknown value %s; write one of %s", quote(got), strings.Join(quoted, ", "))
}

// Closest returns the known word, in lower case, that got is most likely a slip of, "" where none is near.
func Closest(got string, known []string) string {
	const longest = 40 // the distance costs length times length
	if len(got) > longest {
		return ""
	}
	best, guess := 3, ""
	for _, word := range known {
		distance := levenshtein.Distance(strings.ToLower(got), word, nil)
		// Half of a word replaced is another word and not a slip, unless two letters of a short one changed places.
		near := 2*distance < len(word) || 2*distance == len(word) && got != "" && got[0] == word[0]
		if distance < best && near {
			best, guess = distance, word
		}
	}
	return guess
}

// onlyPart returns the one known word that got is a beginning or another part of, or the other way round, such as "warning"
// for "warn"; "" where that is none or several.
func onlyPart(got string, known []string) string {
	const shortest = 3 // letters that say anything
	got, found := strings.ToLower(got), ""
	for _, word := range known {
		if len(got) < shortest || !strings.Contains(word, got) && !strings.HasPrefix(got, word) {
			continue
		}
		if found != "" {
			return ""
		}
		found = word
	}
	return found
}

func parseSidecarRange(text string) (PortRange, error) {
	if text == "" {
		return PortRange{}, nil
	}
	return parsePortRange(text)
}

func parseDuration(text string) (time.Duration, error) {
	value, err := time.ParseDuration(text)
	if err == nil {
		return value, nil
	}
	if _, err := strconv.ParseUint(text, 10, 32); err == nil {
		return 0, fmt.Errorf("%s has no unit; write %q for seconds", quote(text), text+"s")
	}
	return 0, fmt.Errorf("%s is not a duration such as \"500ms\", \"30s\" or \"2m\"", quote(text))
}

func between(low, high time.Duration) func(time.Duration) error {
	return func(value time.Duration) error {
		if value < low || value > high {
			return fmt.Errorf("%q is out of bounds (%s to %s)", value, shortDuration(low), shortDuration(high))
		}
		return nil
	}
}

// spreadAuto is the word for a spread that follows the size of the datacenter.
const spreadAuto = "auto"

// parseSpread takes a duration, or spreadAuto for nil.
func parseSpread(text string) (*time.Duration, error) {
	if text == spreadAuto {
		return nil, nil
	}
	if Closest(text, []string{spreadAuto}) != "" {
		return nil, UnknownWord(text, []string{spreadAuto})
	}
	value, err := parseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%w; or write %q", err, spreadAuto)
	}
	return &value, nil
}

func checkSpread(spread *time.Duration) error {
	if spread == nil {
		return nil
	}
	return between(0, 10*time.Minute)(*spread)
}

// shortDuration writes a whole duration as an operator would, "1m" and not "1m0s".
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// logLevels returns the names of the levels, beginning with the most talkative.
func logLevels() ([]string, []slog.Level) {
	return []string{"debug", "info", "warn", "error"},
		[]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
}

func parseLogLevel(text string) (slog.Level, error) {
	names, levels := logLevels()
	if i := slices.Index(names, text); i >= 0 {
		return levels[i], nil
	}
	return 0, UnknownWord(text, names)
}

func checkLogLevel(level slog.Level) error {
	names, levels := logLevels()
	if slices.Contains(levels, level) {
		return nil
	}
	return UnknownWord(level.String(), names)
}

func parseBool(text string) (bool, error) {
	value, err := strconv.ParseBool(text)
	if err != nil {
		meant := ""
		if guess := Closest(text, []string{"true", "false"}); guess != "" {
			meant = fmt.Sprintf("; did you mean %s?", guess)
		}
		return false, fmt.Errorf("%s is neither true nor false%s", quote(text), meant)
	}
	return value, nil
}

func parseAccept(text string) (Accept, error) {
	word, chain, hasChain := strings.Cut(text, " ")
	switch {
	case text == "head":
		return Accept{}, nil
	case text == "none":
		return Accept{None: true}, nil
	case word == "chain" && hasChain && chain != "":
		return Accept{Chain: chain}, nil
	case word == "chain":
		return Accept{}, errors.New(`"chain" needs a name; write "chain NAME"`)
	}
	if hasChain && Closest(word, []string{"chain"}) != "" {
		return Accept{}, fmt.Errorf("unknown value %s; did you mean %s?", quote(text), quote("chain "+chain))
	}
	return Accept{}, UnknownWord(text, []string{"head", "none", "chain NAME"})
}

// maxChainName is XT_EXTENSION_MAXNAMELEN less the terminating zero: what iptables accepts as a chain's name.
const maxChainName = 28

func checkAccept(accept Accept) error {
	name := accept.Chain
	switch {
	case name == "":
		return nil
	case accept.None:
		return fmt.Errorf("accept is both none and chain %s", quote(name))
	case len(name) > maxChainName:
		return fmt.Errorf("chain name %s has %d characters; iptables takes at most %d", quote(name), len(name), maxChainName)
	case !chainName.MatchString(name):
		return fmt.Errorf("chain name %s may hold only A-Z, a-z, 0-9, \"_\", \".\" and \"-\", and not begin with \"-\"",
			quote(name))
	}
	return nil
}

// checkLabel takes what Consul can answer for in DNS.
func checkLabel(name string) error {
	if !dnsLabel.MatchString(name) {
		meant := ""
		if guess := strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(name); dnsLabel.MatchString(guess) {
			meant = fmt.Sprintf("; did you mean %q?", guess)
		}
		return fmt.Errorf("%s is not a DNS label (1 to 63 letters, digits and \"-\", neither first nor last \"-\")%s",
			quote(name), meant)
	}
	return nil
}

func checkName(name string) error {
	if name == "" {
		return errors.New(`"" is not a name`)
	}
	return checkPrintable(name)
}

func checkPrintable(text string) error {
	if !isPrintable(text) {
		return fmt.Errorf("%s holds control characters", quote(text))
	}
	return nil
}

// checkToken looks only for what cannot be sent as a header, and never quotes.
func checkToken(token Secret) error {
	text := token.Reveal()
	if !isPrintable(text) || strings.ContainsFunc(text, unicode.IsSpace) {
		return errors.New("the token holds blanks or control characters (not shown)")
	}
	return nil
}

// sourceCluster is the word for the members of this Consul datacenter.
const sourceCluster = "cluster"

func parseSource(text string) (Source, error) {
	if text == sourceCluster {
		return Source{Cluster: true}, nil
	}
	network, err := parsePrefix(text)
	return Source{Network: network}, err
}

func checkSource(s Source) error {
	if s.Cluster {
		return nil
	}
	return checkPrefix(s.Network)
}

// maxSetName is NFT_NAME_MAXLEN less the terminating zero.
const maxSetName = 255

// parseSetName takes the family, table and name of a set as nft does; empty means none.
func parseSetName(text string) (SetName, error) {
	words := strings.Fields(text)
	switch len(words) {
	case 0:
		return SetName{}, nil
	case 3:
		return SetName{words[0], words[1], words[2]}, nil
	}
	return SetName{}, fmt.Errorf("%s is not a set; write its family, table and name, such as \"inet filter mesh_ports\"", quote(text))
}

// checkSetName takes what nft takes for names, in the families that see packets to this host.
func checkSetName(n SetName) error {
	if !slices.Contains([]string{"inet", "ip", "ip6"}, n.Family) {
		return fmt.Errorf("family %s is not one of \"inet\", \"ip\" and \"ip6\"", quote(n.Family))
	}
	for _, name := range []string{n.Table, n.Set} {
		if len(name) > maxSetName || !nftName.MatchString(name) {
			return fmt.Errorf("%s is no name that nft takes (letters, digits, \"_\", \".\", \"/\", \"\\\\\", beginning with a letter)", quote(name))
		}
	}
	if n.Table == "hostagent" {
		return fmt.Errorf("table %s is hostagent's own; name a set of your ruleset", quote(n.Table))
	}
	return nil
}

// checkFolder takes an absolute path, or nothing.
func checkFolder(path string) error {
	if path != "" && !filepath.IsAbs(path) {
		return fmt.Errorf("%s is not an absolute path", quote(path))
	}
	return checkPrintable(path)
}

func parsePrefix(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		address, err := netip.ParseAddr(text)
		if err != nil {
			meant := ""
			if Closest(text, []string{sourceCluster}) != "" {
				meant = fmt.Sprintf("; did you mean %q?", sourceCluster)
			}
			return netip.Prefix{}, fmt.Errorf("%s is neither an address, nor a network such as \"10.0.0.0/8\", nor \"cluster\"%s", quote(text), meant)
		}
		if address.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%s has a zone; write the address without it", quote(text))
		}
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s is not a network such as \"10.0.0.0/8\" or \"fd00::/8\"", quote(text))
	}
	return prefix, nil
}

func checkPrefix(prefix netip.Prefix) error {
	address := prefix.Addr()
	switch {
	case !prefix.IsValid():
		return errors.New("an empty network")
	case address.Is4In6() && prefix.Bits() >= 96:
		return fmt.Errorf("%q is IPv4 written as IPv6; write %q", prefix,
			netip.PrefixFrom(address.Unmap(), prefix.Bits()-96).Masked())
	case address.Is4In6():
		return fmt.Errorf("%q is neither an IPv4 nor a whole IPv6 network", prefix)
	case prefix != prefix.Masked():
		return fmt.Errorf("%q has host bits set; write %q for the network or %q for the one address", prefix,
			prefix.Masked(), address)
	}
	return nil
}

// parseMetricsAddress takes an IP address with a port; empty means none.
func parseMetricsAddress(text string) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, nil
	}
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%s is not an IP address with a port, such as \"127.0.0.1:9521\" or \"[::1]:9521\"", quote(text))
	}
	return address, nil
}

func checkMetricsAddress(address netip.AddrPort) error {
	if !address.IsValid() || address.Port() == 0 {
		return fmt.Errorf("%q names no port from 1 to 65535", address)
	}
	return nil
}

// parseAddress takes what Consul's own clients take and returns it as a URL.
func parseAddress(text string) (string, error) {
	scheme, rest, hasScheme := strings.Cut(text, "://")
	if !hasScheme {
		scheme, rest = "http", text
	}
	// A password could stand here, so nothing is quoted.
	if scheme != "unix" && strings.Contains(text, "@") {
		return "", errors.New(`the address holds "@" (not shown); credentials do not belong into it`)
	}
	switch scheme {
	case "unix":
		if !strings.HasPrefix(rest, "/") || !isPrintable(rest) {
			return "", fmt.Errorf("%s needs an absolute path, as in \"unix:///run/consul/http.sock\"", quote(text))
		}
		return text, nil
	case "http", "https":
	default:
		return "", fmt.Errorf("unknown scheme %s; write http, https or unix", quote(scheme))
	}
	if strings.ContainsAny(rest, "?#") { // nor here: Consul once took ?token=
		return "", errors.New(`the address holds "?" or "#" (not shown); write it as in "http://127.0.0.1:8500"`)
	}
	address, err := url.Parse(scheme + "://" + rest)
	if err != nil || address.Hostname() == "" || !isPrintable(rest) || strings.Contains(rest, " ") {
		return "", fmt.Errorf("%s is not an address such as \"http://127.0.0.1:8500\"", quote(text))
	}
	if address.Port() == "" && (!hasScheme || strings.HasSuffix(address.Host, ":")) {
		return "", fmt.Errorf("%s has no port; write it as in \"127.0.0.1:8500\"", quote(text))
	}
	if address.Port() != "" {
		if _, err := parsePort(address.Port()); err != nil {
			return "", fmt.Errorf("%s: %w", quote(text), err)
		}
	}
	return scheme + "://" + strings.TrimSuffix(rest, "/"), nil
}

func checkAddress(address string) error {
	_, err := parseAddress(address)
	return err
}
