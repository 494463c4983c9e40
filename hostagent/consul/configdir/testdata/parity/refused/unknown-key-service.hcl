service {
  name  = "web"
  ports = 8080
}
