services {
  name = "web"
  port = 8080
  connect {
    sidecar_service {
      proxy {
        mode = "transparent"
        transparent_proxy {
          outbound_listener_port = 15002
          dialed_directly        = true
        }
        config {
          envoy_prometheus_bind_addr = "0.0.0.0:20200"
          envoy_stats_bind_addr      = "[::]:20201"
        }
      }
    }
  }
}

services {
  name = "api"
  port = 8081
  connect {
    sidecar_service {
      proxy {
        mode = "direct"
        config {
          envoy_prometheus_bind_addr = "20200"
          envoy_stats_bind_addr      = ":http"
        }
        expose {
          checks = false
        }
        transparent_proxy {}
      }
    }
  }
}

ports {
  expose_min_port = 21600
  expose_max_port = 21610
}
