# Half an address does not count: the socket of the service comes beside it.
service {
  name        = "web"
  socket_path = "/run/web.sock"
  connect {
    sidecar_service {
      proxy { local_service_port = 9090 }
    }
  }
}
