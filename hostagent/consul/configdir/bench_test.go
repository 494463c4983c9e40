// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkRead2000 reads a folder of 2,000 files, half of them HCL and half JSON, each a service with a sidecar.
func BenchmarkRead2000(b *testing.B) {
	const count = 2000
	folder := b.TempDir()
	for i := range count {
		name, text := fmt.Sprintf("%04d.hcl", i), fmt.Sprintf(benchHCL, i, 8000+i)
		if i%2 == 1 {
			name, text = fmt.Sprintf("%04d.json", i), fmt.Sprintf(benchJSON, i, 8000+i)
		}
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		c, err := Read(folder)
		if err != nil {
			b.Fatal(err)
		}
		if len(c.Services) != count || len(c.Problems) != 0 {
			b.Fatalf("%d services, problems %v", len(c.Services), c.Problems)
		}
	}
}

const benchHCL = `# a service of the shop
service {
  name = "shop-%04d"
  port = %d
  tags = ["v1", "eu"]
  meta {
    team = "shop"
  }
  check {
    http     = "http://127.0.0.1/health"
    interval = "10s"
  }
  connect {
    sidecar_service {
      proxy {
        upstreams {
          destination_name = "db"
          local_bind_port  = 9191
        }
        upstreams {
          destination_name = "cache"
          local_bind_port  = 9192
        }
      }
    }
  }
}
`

const benchJSON = `{
  "service": {
    "name": "shop-%04d",
    "port": %d,
    "tags": ["v1", "eu"],
    "meta": {"team": "shop"},
    "check": {"http": "http://127.0.0.1/health", "interval": "10s"},
    "connect": {
      "sidecar_service": {
        "proxy": {
          "upstreams": [
            {"destination_name": "db", "local_bind_port": 9191},
            {"destination_name": "cache", "local_bind_port": 9192}
          ]
        }
      }
    }
  }
}
`
