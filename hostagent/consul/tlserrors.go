// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"
)

// tlsError is a TLS connection that failed, in words that name what mends it. The subject of its text is the agent, "it".
type tlsError struct {
	text string
	err  error
}

func (e *tlsError) Error() string { return e.text }

func (e *tlsError) Unwrap() error { return e.err }

const (
	mostNames   = 4  // that are shown of a certificate
	longestName = 64 // bytes of each
	rightPort   = "write the agent's https port into address, usually 8501"
	apiPort     = "write the port of the agent's HTTP API into address, usually 8500, or 8501 for https"
)

// explain says why a handshake failed, or what the agent made of it afterwards. A timeout stays one.
func (a *attempt) explain(err error) error {
	text := ""
	if failed, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(failed.UnverifiedCertificates) > 0 {
		text = a.explainVerification(failed)
	} else if alert, ok := alertOf(err); ok {
		text = a.explainAlert(alert)
	} else if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		text = explainRecord(record.RecordHeader)
	} else if isTimeout(err) {
		return &lateError{"it did not end the TLS handshake in time" + portHint(a.address), err}
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		text = "it closed the connection during the TLS handshake; " + rightPort
	} else if strings.Contains(err.Error(), "selected unsupported protocol version") {
		text = oldTLS
	} else {
		text = "the TLS handshake failed: " + truncate(sourceless(err).Error(), 300)
	}
	return &tlsError{text + portHint(a.address), err}
}

const oldTLS = `it speaks only versions of TLS below 1.2, which hostagent does not; set tls_min_version = "TLSv1_2" in the agent's ` +
	"configuration, or upgrade what answers there"

func explainRecord(header [5]byte) string {
	if string(header[:]) == "HTTP/" {
		return "it answers in plain HTTP; " + rightPort + ", or write http:// there"
	}
	return "it does not answer in TLS; " + rightPort
}

// explainVerification says why the agent's certificate is not accepted.
func (a *attempt) explainVerification(failed *tls.CertificateVerificationError) string {
	leaf := failed.UnverifiedCertificates[0]
	if wrong, ok := errors.AsType[x509.HostnameError](failed.Err); ok {
		return a.explainName(wrong.Certificate)
	}
	if wrong, ok := errors.AsType[x509.CertificateInvalidError](failed.Err); ok {
		if wrong.Reason == x509.Expired && wrong.Cert != nil {
			whose := "its certificate"
			if slices.ContainsFunc(a.certificates.cas, wrong.Cert.Equal) {
				whose = "the CA " + nameOf(&wrong.Cert.Subject) + " in " + a.source()
			} else if !wrong.Cert.Equal(leaf) {
				whose = "the certificate of the CA " + nameOf(&wrong.Cert.Subject) + ", which its own depends on,"
			}
			return whose + " " + outOfTime(wrong.Cert, a.now()) + "; renew it, unless that clock is wrong"
		}
		if wrong.Reason == x509.IncompatibleUsage {
			return "its certificate is not made for servers; give the agent one with the extended key usage serverAuth"
		}
	}
	_, unknown := errors.AsType[x509.UnknownAuthorityError](failed.Err)
	_, noRoots := errors.AsType[x509.SystemRootsError](failed.Err)
	if unknown || noRoots {
		return a.explainAuthority(failed.UnverifiedCertificates)
	}
	return "its certificate is not valid: " + truncate(failed.Err.Error(), 200) + "; give the agent another one"
}

// explainAuthority says why no CA that we know vouches for the agent's certificate.
func (a *attempt) explainAuthority(chain []*x509.Certificate) string {
	issuer := nameOf(&chain[len(chain)-1].Issuer)
	if a.certificates.roots == nil {
		return "its certificate is signed by " + issuer + ", which this host does not trust; name the file with the certificate of that CA in " +
			"ca_file (CONSUL_CACERT)"
	}
	from, namesake := a.source(), false
	for _, signed := range chain {
		for _, ca := range a.certificates.cas {
			namesake = namesake || string(ca.RawSubject) == string(signed.RawIssuer)
		}
	}
	if namesake {
		return "its certificate is signed by a CA named " + issuer + ", but not by the one of that name in " + from +
			"; put the certificate of the agent's CA there"
	}
	return "its certificate is signed by " + issuer + ", which is not in " + from + "; put the certificate of that CA there"
}

// source names where our CAs come from.
func (a *attempt) source() string {
	if a.config.CAFile == "" {
		return fmt.Sprintf("ca_path %q", a.config.CAPath)
	}
	return fmt.Sprintf("ca_file %q", a.config.CAFile)
}

// explainName says which names the agent's certificate has. The one to use instead is the first that can be written.
func (a *attempt) explainName(certificate *x509.Certificate) string {
	var names, usable []string
	for _, name := range certificate.DNSNames {
		names = append(names, quoteName(name))
		if !strings.Contains(name, "*") && isPlainName(name) {
			usable = append(usable, name)
		}
	}
	for _, ip := range certificate.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			names, usable = append(names, addr.String()), append(usable, addr.String())
		}
	}
	wanted := fmt.Sprintf("the name %s of address", quoteName(a.name))
	if a.config.ServerName != "" {
		wanted = fmt.Sprintf("tls_server_name %s", quoteName(a.name))
	}
	if len(names) == 0 {
		return "its certificate is not for " + wanted + ": it has no names (subject alternative names) at all; give the agent one that has"
	}
	text := "its certificate is not for " + wanted + " but for " + listNames(names)
	if len(usable) == 0 {
		return text + "; set tls_server_name (CONSUL_TLS_SERVER_NAME) to a name that it is for"
	}
	return text + fmt.Sprintf("; set tls_server_name = %q (CONSUL_TLS_SERVER_NAME)", usable[0])
}

// isPlainName tells whether a name can be shown as something to copy.
func isPlainName(name string) bool {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
	return name != "" && len(name) <= longestName && strings.Trim(name, plain) == ""
}

func listNames(names []string) string {
	shown := slices.Clone(names[:min(len(names), mostNames)])
	if more := len(names) - len(shown); more > 0 {
		shown = append(shown, strconv.Itoa(more)+" more")
	}
	if len(shown) == 1 {
		return shown[0]
	}
	return strings.Join(shown[:len(shown)-1], ", ") + " and " + shown[len(shown)-1]
}

// quoteName quotes a name that somebody else chose.
func quoteName(name string) string { return strconv.QuoteToASCII(truncate(name, longestName)) }

// nameOf names the subject or issuer of a certificate.
func nameOf(name *pkix.Name) string {
	if name.CommonName != "" {
		return quoteName(name.CommonName)
	}
	if text := name.String(); text != "" {
		return quoteName(text)
	}
	return "a CA without a name"
}

// outOfTime says since when a certificate does not count, and by whose clock. It does not say what the clock shows: the same
// trouble is to be told in the same words.
func outOfTime(certificate *x509.Certificate, now time.Time) string {
	const layout = "2006-01-02 15:04:05 UTC"
	if now.Before(certificate.NotBefore) {
		return "is valid only from " + certificate.NotBefore.UTC().Format(layout) + " on, by this host's clock"
	}
	return "expired on " + certificate.NotAfter.UTC().Format(layout) + ", by this host's clock"
}

// alertOf returns what the other side said when it gave the connection up. Package tls has no exported type for that.
func alertOf(err error) (alert string, ok bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" || op.Err == nil {
		return "", false
	}
	return strings.TrimPrefix(op.Err.Error(), "tls: "), true
}

func (a *attempt) explainAlert(alert string) string {
	switch {
	case alert == "protocol version not supported":
		return oldTLS
	case a.asked && a.certificates.client == nil && slices.Contains([]string{"certificate required", "bad certificate", "handshake failure"}, alert):
		return "it demands a client certificate" + a.acceptableCAs() +
			"; name one and its key in cert_file (CONSUL_CLIENT_CERT) and key_file (CONSUL_CLIENT_KEY)"
	case a.asked && a.certificates.client != nil && (strings.Contains(alert, "certificate") || alert == "access denied"):
		return a.explainRefusal(alert)
	case alert == "unrecognized name":
		return fmt.Sprintf("it knows no server named %s; set tls_server_name (CONSUL_TLS_SERVER_NAME) to its name", quoteName(a.name))
	}
	return fmt.Sprintf("it gave up the TLS handshake, saying %q; %s", alert, rightPort)
}

// explainRefusal says why the agent does not accept our certificate.
func (a *attempt) explainRefusal(alert string) string {
	leaf := a.certificates.client.Leaf
	ours := fmt.Sprintf("the client certificate in cert_file %q", a.config.CertFile)
	switch now := a.now(); {
	case now.After(leaf.NotAfter) || now.Before(leaf.NotBefore):
		return "it does not accept " + ours + ", which " + outOfTime(leaf, now) + "; renew it, unless that clock is wrong"
	case alert == "expired certificate":
		return "by its clock " + ours + " is not valid now, but by this host's it is; set the clocks right, or renew the CA that signed it"
	case !forClients(leaf):
		return "it does not accept " + ours + ", which is not made for clients; take one with the extended key usage clientAuth"
	case alert == "unknown certificate authority":
		return "it does not accept " + ours + ", because it does not know its CA " + nameOf(&leaf.Issuer) + "; take a certificate" +
			a.acceptableCAs()
	}
	return fmt.Sprintf("it does not accept %s, saying %q; take a certificate%s", ours, alert, a.acceptableCAs())
}

func forClients(leaf *x509.Certificate) bool {
	return len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 ||
		slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// acceptableCAs names those that the agent said it accepts.
func (a *attempt) acceptableCAs() string {
	var names []string
	for _, raw := range a.acceptable[:min(len(a.acceptable), 100)] {
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(raw, &rdns); err != nil || len(rest) > 0 {
			continue
		}
		var name pkix.Name
		name.FillFromRDNSequence(&rdns)
		names = append(names, nameOf(&name))
	}
	if len(names) == 0 {
		return " signed by a CA that the agent knows"
	}
	return " signed by " + listNames(names)
}

func isTimeout(err error) bool {
	var network net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout()
}

// portHint names what Consul usually serves on the port of an address, where that is not its HTTP API.
func portHint(address string) string {
	if u, err := url.Parse(address); err == nil && u.Host != "" {
		address = u.Host
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	usual := map[string]string{
		"8300": "servers talk to each other", "8301": "the gossip of a datacenter is", "8302": "the gossip between datacenters is",
		"8502": "Consul serves gRPC", "8503": "Consul serves gRPC over TLS", "8600": "Consul answers DNS",
	}
	if usual[port] == "" {
		return ""
	}
	return "; port " + port + " is where " + usual[port]
}

// wantsTLS tells whether an answer to plain HTTP says that TLS is spoken there.
func wantsTLS(err error) bool {
	if status, ok := errors.AsType[api.StatusError](err); ok { // Go's server, and nginx
		return status.Code == 400 && (strings.Contains(status.Body, "HTTP request to an HTTPS server") || strings.Contains(status.Body, "sent to HTTPS port"))
	}
	return err != nil && strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`) // an alert
}

// socketRemedy says what mends a unix socket that cannot be dialled.
func socketRemedy(err error) string {
	switch {
	case errors.Is(err, syscall.EACCES):
		return "; let the user that hostagent runs as use it: unix_sockets { group, mode } in the agent's configuration, and the folders above it"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "; nobody accepts there, so the agent is not running and left it behind: start the agent"
	case errors.Is(err, syscall.ENOENT):
		return "; is the agent running, and is that path in addresses { http } of its configuration?"
	}
	return ""
}
