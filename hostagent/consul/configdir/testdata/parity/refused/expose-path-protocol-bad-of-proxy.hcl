service {
  name = "web-proxy"
  kind = "connect-proxy"
  port = 20000
  proxy {
    destination_service_name = "web"
    expose {
      paths {
        path          = "/a"
        listener_port = 21500
        protocol      = "grpc"
      }
    }
  }
}
