service {
  name = "web"
  port = 8080
  meta {
    text = <<EOF
hello
EOF
  }
}
