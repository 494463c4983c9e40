// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// tells returns the first eight bytes of secret, or of how it may be written, that text holds.
func tells(text string) string {
	forms := []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret)),
		base64.StdEncoding.EncodeToString([]byte("x:" + secret))[4:], base64.StdEncoding.EncodeToString([]byte("x" + secret))[4:]}
	for _, form := range forms {
		for i := range len(form) - 10 { // what follows is padded, or its neighbours'
			if part := strings.ToLower(form[i : i+8]); strings.Contains(strings.ToLower(text), part) {
				return part
			}
		}
	}
	return ""
}

// Whoever answers with the token, in whatever form: no error shows it, nor does what is read of a good answer.
func TestTokenIsConcealed(t *testing.T) {
	half := secret[:18]
	for name, text := range map[string]string{
		"whole":         secret,
		"a header":      "X-Consul-Token: " + secret + "\r\nAccept: */*",
		"upper case":    strings.ToUpper(secret),
		"first half":    half,
		"last half":     secret[18:],
		"twice":         secret + secret,
		"a page":        "<html><body><pre>X-Consul-Token: " + secret + "</pre></body></html>",
		"base64":        base64.StdEncoding.EncodeToString([]byte(secret)),
		"basic auth":    base64.StdEncoding.EncodeToString([]byte("u:" + secret)),
		"another place": base64.StdEncoding.EncodeToString([]byte("u" + secret)),
		"hexadecimal":   hex.EncodeToString([]byte(secret)),
		"many":          strings.Repeat(secret+" ", 500),
		"at the cut":    strings.Repeat("x", maxErrorBody-20) + secret,
	} {
		for _, handler := range []struct {
			how    string
			answer http.HandlerFunc
		}{
			{"403", reply(403, text)},
			{"500", reply(500, text)},
			{"200", reply(200, text, allow)},
			{"no HTTP", raw(text + "\r\n\r\n")},
			{"status line", raw("HTTP/1.1 " + text + "\r\n\r\n")},
			{"header", raw("HTTP/1.1 200 OK\r\n" + text + "\r\n\r\n")},
		} {
			srv := httptest.NewServer(handler.answer)
			c := newClient(t, Config{Address: srv.URL, Token: secret})
			_, first := c.Services(t.Context())
			_, second := c.Agent(t.Context())
			_, third := c.Report(t.Context(), Report{Service: "hostagent"})
			_, fourth := c.Members(t.Context())
			err := errors.Join(first, second, third, fourth)
			if err == nil {
				t.Errorf("%s, %s: no error", name, handler.how)
			} else if part := tells(err.Error()); part != "" {
				t.Errorf("%s, %s: the error tells %q: %v", name, handler.how, part, err)
			}
			srv.Close()
		}
	}
}

// What echoes headers as names of services is believed, but not with the token.
func TestTokenIsConcealedInGoodAnswers(t *testing.T) {
	srv := httptest.NewServer(reply(200, `{"`+secret+`":{"ID":"`+secret+`","Service":"web `+secret+`"}}`, allow))
	defer srv.Close()
	got, err := newClient(t, Config{Address: srv.URL, Token: secret}).Services(t.Context())
	if err != nil || len(got.Registrations) != 1 || got.Registrations[0].ID != "(token)" || got.Registrations[0].Name != "web (token)" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestConcealLeavesTheRest(t *testing.T) {
	const text = "Permission denied: token with AccessorID '6ba7b81f-1660-367e-850d-26740f8986fc' lacks permission 'agent:read'"
	for _, token := range []string{secret, "", "a", "e", "tok", "ü"} {
		if got := conceal(text, token); got != text {
			t.Errorf("token %q: %s", token, got)
		}
	}
	if got := conceal("the token is sesame!", "sesame"); got != "the token is (token)!" {
		t.Errorf("a short token: %s", got)
	}
}
