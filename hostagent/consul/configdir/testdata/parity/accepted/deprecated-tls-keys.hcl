verify_outgoing = false
ui              = true
start_join      = []
service {
  name = "web"
  port = 8080
}
