service {
  name = "ingress"
  kind = "ingress-gateway"
  port = 8443
  proxy { local_service_port = 8080 }
}
