// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

const (
	definition = `service {
  name = "shop-%04d"
  port = %d
  tags = ["v1", "eu"]
  check {
    http     = "http://127.0.0.1/health"
    interval = "10s"
  }
  connect {
    sidecar_service {
      proxy {
        upstreams { destination_name = "db", local_bind_port = 9191 }
        upstreams { destination_name = "cache", local_bind_port = 9192 }
      }
    }
  }
}
`
	settings = `data_dir = "/run/consul"
ports {
  sidecar_min_port = 26000
  sidecar_max_port = 29000
}
`
)

// BenchmarkScanDefinitions runs whole processes over a folder of 2,000 service definitions. Consul's own validation, the
// only peer, reads the same files and looks at no socket.
func BenchmarkScanDefinitions(b *testing.B) {
	folder := b.TempDir()
	files := map[string]string{"00-agent.hcl": settings}
	for i := range 2000 {
		files[fmt.Sprintf("shop-%04d.hcl", i)] = fmt.Sprintf(definition, i, 10000+i)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	ctx := context.Background()
	hostagent, err := host.Binary(ctx, host.HostagentProgram)
	if err != nil {
		b.Fatal(err)
	}
	consul, err := host.ConsulBinary(ctx, os.Stderr)
	if err != nil {
		b.Fatal(err)
	}
	for _, program := range []struct {
		name string
		args []string
	}{
		{"hostagent", []string{hostagent, "scan", "--fail-on", "never", "--consul-config", folder}},
		{"consul-validate", []string{consul, "validate", folder}},
	} {
		b.Run(program.name, func(b *testing.B) {
			for b.Loop() {
				if out, err := exec.CommandContext(ctx, program.args[0], program.args[1:]...).Output(); err != nil {
					b.Fatalf("%v: %v (%d bytes printed)", program.args, err, len(out))
				}
			}
		})
	}
}
