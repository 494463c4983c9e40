// SPDX-License-Identifier: MPL-2.0

package hostagent

import "time"

// tellCertificates logs that the certificates of the connection to Consul were replaced on disk, and why new ones are not used.
func (a *Agent) tellCertificates(now time.Time) {
	if a.parts.Certificates == nil {
		return
	}
	changes, broken := a.parts.Certificates()
	if changes > a.renewed {
		a.parts.Log.Info("certificates for Consul were replaced on disk and are in use now")
	}
	a.renewed = changes // a reload begins anew
	a.news.trouble(a.parts.Log, now, "certificates", broken)
}
