// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// SavedSettings is what hostagent keeps of a fleet's settings, so that it knows who may connect when it starts while Consul
// is away: the last entries of Consul's KV that were valid, and whose they are.
type SavedSettings struct {
	Machine string `json:"machine"` // see MachineFingerprint
	// Prefix, Namespace and Partition are where the entries lie: others say nothing of what lies elsewhere.
	Prefix    string `json:"kv_prefix"`
	Namespace string `json:"namespace,omitempty"`
	Partition string `json:"partition,omitempty"`
	// Entries are as Client.KV returns them.
	Entries []consul.KVEntry `json:"entries"`
}

const (
	settingsFile    = "settings.json"
	settingsVersion = 1
	// maxSettings is how many bytes the file may have: as many as the answer that it is made of.
	maxSettings = 2 << 20
)

type settingsEnvelope struct {
	Version  int             `json:"version"`
	Checksum string          `json:"checksum"` // as stateEnvelope's
	Settings json.RawMessage `json:"settings"`
}

// SaveSettings writes s into dir as SaveState does with the state.
func SaveSettings(dir string, s *SavedSettings) error {
	data, err := s.encode()
	if err == nil {
		err = saveFile(dir, settingsFile, data)
	}
	if err != nil {
		return fmt.Errorf("cannot save the settings of Consul's KV: %w", err)
	}
	return nil
}

func (s *SavedSettings) encode() ([]byte, error) {
	content, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(settingsEnvelope{settingsVersion, checksum(content), content})
	if len(data) > maxSettings {
		return nil, fmt.Errorf("they take %d bytes, more than %d", len(data), maxSettings)
	}
	return data, err
}

// LoadSettings reads what SaveSettings wrote into dir, and refuses what somebody else could have written and what is of
// another machine or place than where's. Where there is none, the error is an fs.ErrNotExist. Whether the entries still
// make a valid configuration is for the caller to see.
func LoadSettings(dir string, where SavedSettings) (*SavedSettings, error) {
	data, err := loadFile(dir, settingsFile, maxSettings)
	if err != nil {
		return nil, fmt.Errorf("cannot use the saved settings of Consul's KV: %w", err)
	}
	s, err := decodeSettings(data)
	if err == nil {
		err = s.belongs(where)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the saved settings of Consul's KV in %q: %w", filepath.Join(dir, settingsFile), err)
	}
	return s, nil
}

func decodeSettings(data []byte) (*SavedSettings, error) {
	var versioned struct {
		Version int `json:"version"`
	}
	switch err := json.Unmarshal(data, &versioned); {
	case len(data) > maxSettings:
		return nil, fmt.Errorf("%w: it has more than %d bytes", errDamaged, maxSettings)
	case err != nil || versioned.Version < 1:
		return nil, fmt.Errorf("%w: it holds no saved settings", errDamaged)
	case versioned.Version > settingsVersion:
		return nil, fmt.Errorf("%w (format %d, this one reads %d)", errNewer, versioned.Version, settingsVersion)
	}
	var envelope settingsEnvelope
	if err := decodeStrictly(data, &envelope); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if checksum(envelope.Settings) != envelope.Checksum {
		return nil, fmt.Errorf("%w: its checksum is wrong", errDamaged)
	}
	s := new(SavedSettings)
	if err := decodeStrictly(envelope.Settings, s); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return s, nil
}

// belongs refuses settings of another machine, as on a copied disk, or of another place in Consul's KV.
func (s *SavedSettings) belongs(where SavedSettings) error {
	switch {
	case where.Machine == "":
		return fmt.Errorf("this machine cannot be told, because %s holds no machine id", MachineIDFile)
	case s.Machine != where.Machine:
		return fmt.Errorf("%w: its machine id is another one", errForeign)
	case s.Prefix != where.Prefix, s.Namespace != where.Namespace, s.Partition != where.Partition:
		return errors.New("it belongs to another kv_prefix, namespace or partition")
	}
	return nil
}
