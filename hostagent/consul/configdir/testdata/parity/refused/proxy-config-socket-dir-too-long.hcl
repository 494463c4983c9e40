service {
  name = "web-proxy"
  kind = "connect-proxy"
  port = 20000
  proxy {
    destination_service_name = "web"
    config {
      envoy_hcp_metrics_bind_socket_dir = "/var/lib/a-folder-whose-name-is-far-too-long/for-a-unix-socket/of-any-system"
    }
  }
}
