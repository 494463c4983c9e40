// SPDX-License-Identifier: MPL-2.0

// Package packaging holds what an installation puts on a host beside the program and its units: one source for packages and
// for "hostagent service install".
package packaging

import _ "embed" // of the configuration

//go:embed default.hcl
var defaultConfig string

// Config is the text of the configuration that an installation starts with. It observes.
func Config() string { return defaultConfig }

// Guard is the one line for a shell that makes an installation guard that has the configuration of Config in
// /etc/hostagent.d/hostagent.hcl. That text shows it too.
const Guard = `sed -i 's/^mode = .*/mode = "guard"/' /etc/hostagent.d/hostagent.hcl && systemctl reload hostagent`
