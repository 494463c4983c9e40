// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// A finding about the agent holds the bare reason, and all of it; what mends it is its remedy.
func TestAgentTroubleTellsTheReason(t *testing.T) {
	for name, header := range map[string]string{
		"it denies by default, and no token was sent": "X-Consul-Default-Acl-Policy",
		"it left services out":                        "X-Consul-Results-Filtered-By-Acls",
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(header, "deny")
			w.Write([]byte("{}"))
		}))
		defer srv.Close()
		client, err := consul.New(consul.Config{Address: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Services(t.Context())
		trouble := agentTrouble(err)
		entry, _ := catalog.Lookup(trouble.ID)
		text := catalog.Render(entry.Message, "reason", trouble.Reason)
		if entry.ID != catalog.RegistrationsFiltered || !strings.Contains(text, "("+name) || strings.Contains(text, "…") || strings.Contains(text, "cannot") {
			t.Errorf("%v is the finding %s: %s", err, entry.ID, text)
		}
	}
}
