# proxy {} of a service that is no proxy: taken, and shown to nobody.
service {
  name = "web"
  port = 8080
  proxy { local_service_port = 1 }
}
