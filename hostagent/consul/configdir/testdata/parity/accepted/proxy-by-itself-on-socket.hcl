service {
  name        = "web-envoy"
  kind        = "connect-proxy"
  socket_path = "/run/envoy.sock"
  proxy {
    destination_service_name  = "web"
    local_service_socket_path = "/run/web.sock"
  }
}
