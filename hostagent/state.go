// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/firewall"
)

// Saved is what hostagent keeps over a restart of the host: the ports and sources that it last made the kernel hold, what
// they were made of, and whose they are. It holds no tokens and no names of services. Where the accept rule stands and
// whether connections are cut is not in it: the configuration says so, and is at hand whenever this is read.
type Saved struct {
	Version string // of the hostagent that saved it
	Machine string // the fingerprint of the machine's id, see MachineFingerprint
	NodeID  string // of the Consul agent; "" where it did not tell
	DataDir string // of the Consul agent; "" where it did not tell

	Range            PortRange
	Guard, Open, Cut firewall.PortSet

	// Limited tells that only Sources may connect to open ports. Sources are canonical: sorted, each once, without host bits.
	Limited bool
	Sources []netip.Prefix
	// AllowFrom, AllowCluster and AllowBridges are the part of the operator's policy that Sources were made of.
	AllowFrom                  []netip.Prefix
	AllowCluster, AllowBridges bool

	// Paths are the exposed paths, and PathSources, canonical, who may connect to them; both empty where the operator lets
	// nobody. PathsFrom and PathsCluster are the part of the policy that PathSources were made of.
	Paths                  firewall.PortSet
	PathSources, PathsFrom []netip.Prefix
	PathsCluster           bool
}

// exposes tells whether s holds anything of exposed paths.
func (s *Saved) exposes() bool {
	return s.Paths.Len() > 0 || len(s.PathSources) > 0 || len(s.PathsFrom) > 0 || s.PathsCluster
}

// Why a saved state cannot be used. Errors of LoadState and Saved.belongs wrap one of them where they are one.
var (
	errDamaged = errors.New("it is damaged or was edited")
	errNewer   = errors.New("it was written by a newer hostagent")
	errForeign = errors.New("it belongs to another host")
)

// stateVersion is the newest version of the format that this program reads: 2 has exposed paths. A state without any is
// written as version 1, so that a hostagent that knows no other reads it, too.
const stateVersion = 2

const (
	// maxState is how many bytes a state may have: the most sources that two sets hold take less, twice.
	maxState = 16 << 20
	// maxSources is how many networks of both families there may be.
	maxSources = 2 * 65536
	// maxWord bounds ids and versions.
	maxWord = 200
)

// stateEnvelope is the file. Checksum is the SHA-256 of State as it stands there, byte by byte.
type stateEnvelope struct {
	Version  int             `json:"version"`
	Checksum string          `json:"checksum"`
	State    json.RawMessage `json:"state"`
}

// stateContent is what Saved is in the file. Ports are written as "21000-21002, 21010", or "none".
type stateContent struct {
	Version   string         `json:"hostagent_version"`
	Machine   string         `json:"machine"`
	NodeID    string         `json:"consul_node_id"`
	DataDir   string         `json:"consul_data_dir"`
	Range     string         `json:"sidecar_range"`
	Guard     string         `json:"guard"`
	Open      string         `json:"open"`
	Cut       string         `json:"cut"`
	Limited   bool           `json:"limited"`
	Sources   []netip.Prefix `json:"sources"`
	AllowFrom []netip.Prefix `json:"allow_from"`
	Cluster   bool           `json:"allow_cluster"`
	Bridges   bool           `json:"allow_local_bridges"`
	Paths     *statePaths    `json:"exposed_paths,omitempty"` // version 2 only
}

// statePaths is what Saved holds of exposed paths.
type statePaths struct {
	Ports   string         `json:"ports"`
	Sources []netip.Prefix `json:"sources"`
	From    []netip.Prefix `json:"exposed_paths_from"`
	Cluster bool           `json:"exposed_paths_cluster"`
}

// encode writes s as a file's content. The same s gives the same bytes.
func (s *Saved) encode() ([]byte, error) {
	version := 1
	var paths *statePaths
	if s.exposes() {
		version, paths = 2, &statePaths{s.Paths.String(), s.PathSources, s.PathsFrom, s.PathsCluster}
	}
	content, err := json.Marshal(stateContent{
		Paths:   paths,
		Version: s.Version, Machine: s.Machine, NodeID: s.NodeID, DataDir: s.DataDir, Range: s.Range.Ports().String(),
		Guard: s.Guard.String(), Open: s.Open.String(), Cut: s.Cut.String(),
		Limited: s.Limited, Sources: s.Sources, AllowFrom: s.AllowFrom, Cluster: s.AllowCluster, Bridges: s.AllowBridges,
	})
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(stateEnvelope{Version: version, Checksum: checksum(content), State: content})
	if err != nil {
		return nil, err
	}
	if data = append(data, '\n'); len(data) > maxState {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(data), maxState)
	}
	return data, nil
}

// checksum is what an envelope says of its content.
func checksum(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// decodeState reads what encode writes and nothing else: what is torn, was edited, or does not make sense is refused.
func decodeState(data []byte) (*Saved, error) {
	var versioned struct {
		Version int `json:"version"`
	}
	switch err := json.Unmarshal(data, &versioned); {
	case len(data) > maxState:
		return nil, fmt.Errorf("%w: it has more than %d bytes", errDamaged, maxState)
	case err != nil || versioned.Version < 1:
		return nil, fmt.Errorf("%w: it is no saved state", errDamaged)
	case versioned.Version > stateVersion:
		return nil, fmt.Errorf("%w (format %d, this one reads %d)", errNewer, versioned.Version, stateVersion)
	}
	var envelope stateEnvelope
	if err := decodeStrictly(data, &envelope); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if checksum(envelope.State) != envelope.Checksum {
		return nil, fmt.Errorf("%w: its checksum is wrong", errDamaged)
	}
	var content stateContent
	if err := decodeStrictly(envelope.State, &content); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if (envelope.Version > 1) != (content.Paths != nil) {
		return nil, fmt.Errorf("%w: exposed paths are not of format %d", errDamaged, envelope.Version)
	}
	s, err := content.check()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return s, nil
}

// decodeStrictly decodes one JSON value without unknown fields and with nothing behind it.
func decodeStrictly(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind its end")
	}
	return nil
}

// check makes a Saved of what was read, if all of it makes sense.
func (c *stateContent) check() (*Saved, error) {
	s := &Saved{
		Version: c.Version, Machine: c.Machine, NodeID: c.NodeID, DataDir: c.DataDir,
		Limited: c.Limited, Sources: c.Sources, AllowFrom: c.AllowFrom, AllowCluster: c.Cluster, AllowBridges: c.Bridges,
	}
	for name, text := range map[string]string{"hostagent_version": c.Version, "machine": c.Machine, "consul_node_id": c.NodeID} {
		if len(text) > maxWord || !plainText(text) {
			return nil, fmt.Errorf("%s is no word", name)
		}
	}
	if c.Machine == "" {
		return nil, errors.New("it names no machine")
	}
	if !usableFolder(c.DataDir) {
		return nil, errors.New("consul_data_dir is no absolute path")
	}
	sidecars, err := parsePorts(c.Range)
	if err != nil {
		return nil, fmt.Errorf("sidecar_range: %w", err)
	}
	if s.Range, err = rangeOf(sidecars); err != nil {
		return nil, fmt.Errorf("sidecar_range: %w", err)
	}
	for _, set := range []struct {
		name, text string
		into       *firewall.PortSet
	}{{"guard", c.Guard, &s.Guard}, {"open", c.Open, &s.Open}, {"cut", c.Cut, &s.Cut}} {
		if *set.into, err = parsePorts(set.text); err != nil {
			return nil, fmt.Errorf("%s: %w", set.name, err)
		}
	}
	if p := c.Paths; p != nil {
		if s.Paths, err = parsePorts(p.Ports); err != nil {
			return nil, fmt.Errorf("exposed_paths: %w", err)
		}
		s.PathSources, s.PathsFrom, s.PathsCluster = p.Sources, p.From, p.Cluster
		err = errors.Join(checkPrefixes("sources of exposed_paths", p.Sources), checkPrefixes("exposed_paths_from", p.From))
		if err != nil || !s.exposes() {
			return nil, cmp.Or(err, errors.New("exposed_paths holds nothing"))
		}
	}
	if !s.Limited && len(s.Sources) > 0 {
		return nil, errors.New("sources without a limit")
	}
	return s, errors.Join(checkPrefixes("sources", s.Sources), checkPrefixes("allow_from", s.AllowFrom))
}

// plainText tells whether text is printable ASCII.
func plainText(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// usableFolder tells whether path may be looked into: absolute and plain, or empty for none.
func usableFolder(path string) bool {
	return path == "" || filepath.IsAbs(path) && filepath.Clean(path) == path && len(path) <= 4096 && plainText(path)
}

// parsePorts reads what PortSet.String writes, and only that.
func parsePorts(text string) (firewall.PortSet, error) {
	var ports firewall.PortSet
	if text == "none" {
		return ports, nil
	}
	for part := range strings.SplitSeq(text, ", ") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil {
			return firewall.PortSet{}, errors.New("no list of ports")
		}
		ports.AddRange(uint16(from), uint16(to))
	}
	if ports.Has(0) || ports.String() != text {
		return firewall.PortSet{}, errors.New("no list of ports as hostagent writes it")
	}
	return ports, nil
}

// rangeOf makes a range of ports that are one.
func rangeOf(ports firewall.PortSet) (PortRange, error) {
	var r PortRange
	for port := range ports.All() {
		if r.First == 0 {
			r.First = port
		}
		r.Last = port
	}
	if r.Ports() != ports || ports.Len() > maxRange {
		return PortRange{}, fmt.Errorf("no range of at most %d ports", maxRange)
	}
	return r, nil
}

// canonicalPrefixes returns networks as Saved holds them; what is none is left out.
func canonicalPrefixes(given []netip.Prefix) []netip.Prefix {
	canonical := make([]netip.Prefix, 0, len(given))
	for _, p := range given {
		if p = p.Masked(); p.IsValid() && !p.Addr().Is4In6() {
			canonical = append(canonical, p)
		}
	}
	slices.SortFunc(canonical, netip.Prefix.Compare)
	return slices.Compact(canonical)
}

func checkPrefixes(name string, prefixes []netip.Prefix) error {
	if len(prefixes) > maxSources {
		return fmt.Errorf("%s holds more than %d networks", name, maxSources)
	}
	if !slices.Equal(prefixes, canonicalPrefixes(prefixes)) {
		return fmt.Errorf("%s holds what is no network, or not in order", name)
	}
	return nil
}

// equal tells whether s and other would restore the same for the same host; the version of who saved them plays no part.
func (s *Saved) equal(other *Saved) bool {
	return s.Machine == other.Machine && s.NodeID == other.NodeID && s.DataDir == other.DataDir && s.Range == other.Range &&
		s.Guard == other.Guard && s.Open == other.Open && s.Cut == other.Cut &&
		s.Limited == other.Limited && slices.Equal(s.Sources, other.Sources) && slices.Equal(s.AllowFrom, other.AllowFrom) &&
		s.AllowCluster == other.AllowCluster && s.AllowBridges == other.AllowBridges && s.Paths == other.Paths &&
		slices.Equal(s.PathSources, other.PathSources) && slices.Equal(s.PathsFrom, other.PathsFrom) && s.PathsCluster == other.PathsCluster
}

// MachineIDFile is where systemd and D-Bus keep the machine's id.
const MachineIDFile = "/etc/machine-id"

// MachineFingerprint returns what binds a saved state to the machine whose id is in the file at path, usually
// MachineIDFile: a hash, because the id itself is confidential (machine-id(5)). An image that is to boot on many
// machines holds none yet, which is an error.
func MachineFingerprint(path string) (string, error) {
	const remedy = "systemd-machine-id-setup makes one"
	text, err := readSmall(path)
	if err != nil {
		return "", fmt.Errorf("cannot tell this machine: %w (%s)", err, remedy)
	}
	id, err := hex.DecodeString(text)
	if err != nil || len(id) != 16 || bytes.Equal(id, make([]byte, 16)) {
		return "", fmt.Errorf("cannot tell this machine: %q holds no machine id (%s)", path, remedy)
	}
	return checksum(append([]byte("hostagent "), id...)), nil
}

// belongs refuses a state of another machine, or of another Consul node than the one whose data is on this host. A node
// that cannot be told is taken for the right one.
func (s *Saved) belongs(machine string) error {
	if machine == "" {
		return fmt.Errorf("cannot use the saved state: this machine cannot be told, because %s holds no machine id", MachineIDFile)
	}
	if s.Machine != machine {
		return fmt.Errorf("cannot use the saved state: %w: its machine id is another one", errForeign)
	}
	if s.NodeID == "" || s.DataDir == "" {
		return nil
	}
	path := filepath.Join(s.DataDir, "node-id")
	node, err := readSmall(path)
	if err == nil && !strings.EqualFold(node, s.NodeID) {
		return fmt.Errorf("cannot use the saved state: %w: the Consul node id in %q is another one", errForeign, path)
	}
	return nil
}

// readSmall reads a file of one line.
func readSmall(path string) (string, error) {
	file, err := openRegular(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxWord))
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}

// openRegular opens a file for reading, and nothing that could hang whoever reads it.
func openRegular(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is no regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}
