// SPDX-License-Identifier: MPL-2.0

package firewall

import _ "github.com/google/nftables" // the nftables backend
